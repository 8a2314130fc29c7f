"""The official SDKs for Node: `clients.mjs` against the real binary.

Skipped where `npm install` has not been run in this folder; `.ci/run` runs it.
"""

import os
import subprocess
import unittest
from pathlib import Path

from fake_cloud import CloudServer
from gateway import BINARY, Gateway

FOLDER = Path(__file__).parent
SECONDS_MAX = 300


@unittest.skipUnless((FOLDER / "node_modules").is_dir(), "no node_modules")
class Node(unittest.TestCase):
    """One run of all of it."""

    def test_the_clients_for_node(self):
        cloud = self.enterContext(CloudServer())
        edge = self.enterContext(Gateway(BINARY))
        hybrid = self.enterContext(Gateway(BINARY, cloud.base_url))
        done = subprocess.run(
            ["node", FOLDER / "clients.mjs", edge.url, hybrid.url],
            capture_output=True, text=True, timeout=SECONDS_MAX,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(": ok"), 4)
        self.assertNotIn(b"4111", cloud.received)


if __name__ == "__main__":
    unittest.main()
