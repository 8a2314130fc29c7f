"""Starts the real binary on free ports and stops it again."""

import os
import queue
import re
import subprocess
import tempfile
import threading
from pathlib import Path

BINARY = os.environ.get("SLUICE_BINARY", "target/release/sluice")
READY_SECONDS_MAX = 60
# What the gateway shows to the cloud.
CLOUD_KEY = "sk-of-the-gateway"

CONFIG = """\
mode: trial
listen: {{traffic: "127.0.0.1:0", metrics: "127.0.0.1:0"}}
upstreams:
{edge}{cloud}audit: {{path: {audit}, fsync: never}}
"""
EDGE = """\
  edge: {kind: edge}
"""
CLOUD = """\
  cloud: {{kind: {kind}, base_url: "{base_url}", key: "${{SLUICE_TEST_CLOUD_KEY}}"}}
"""


class Gateway:
    """`sluice serve` with the embedded model and one cloud, if given; use as a context manager."""

    def __init__(self, binary, cloud_url=None, kind="openai", edge=True):
        self.binary, self.cloud_url, self.kind, self.edge = binary, cloud_url, kind, edge

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="sluice-clients-")
        config = Path(self.folder.name, "sluice.yaml")
        cloud = CLOUD.format(base_url=self.cloud_url, kind=self.kind) if self.cloud_url else ""
        edge, audit = EDGE if self.edge else "", Path(self.folder.name, "audit")
        config.write_text(CONFIG.format(edge=edge, cloud=cloud, audit=audit))
        self.log = Path(self.folder.name, "log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", str(config)],
                env=os.environ | {"SLUICE_TEST_CLOUD_KEY": CLOUD_KEY},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.lines = queue.Queue()
        threading.Thread(target=self._read_lines, daemon=True).start()
        try:
            self.url = self._wait_for(r"traffic\s+(http://\S+)")
            self.metrics_url = self._wait_for(r"metrics\s+(http://\S+)")
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        try:
            status = self.process.wait(timeout=READY_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()
        if not any(exc) and status != 0:
            raise RuntimeError(f"the gateway did not drain: it ended with status {status}")

    @property
    def audit_lines(self):
        return Path(self.folder.name, "audit", "audit.jsonl").read_text().splitlines()

    def _read_lines(self):
        # Read to the end: a full pipe would stop the gateway.
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _wait_for(self, pattern):
        while (line := self.lines.get(timeout=READY_SECONDS_MAX)) is not None:
            if found := re.search(pattern, line):
                return found.group(1)
        status, log = self.process.wait(), self.log.read_text()
        raise RuntimeError(f"the gateway ended with status {status} before it served:\n{log}")
