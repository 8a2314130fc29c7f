"""What runs on Node against the real binary: the official SDKs (`clients.mjs`), the Vercel AI SDK (`vercel.mjs`).

Skipped where `npm install` has not been run in this folder; `.ci/run` runs it.
"""

import subprocess
import unittest
from pathlib import Path

from sides import BothSides

FOLDER = Path(__file__).parent
SECONDS_MAX = 300


@unittest.skipUnless((FOLDER / "node_modules").is_dir(), "no node_modules")
class Node(BothSides):
    """One run of each script."""

    def run_script(self, name, parts):
        done = subprocess.run(
            ["node", FOLDER / name, self.edge.url, self.hybrid.url],
            capture_output=True, text=True, timeout=SECONDS_MAX,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(": ok"), parts)
        self.assertNotIn(b"4111", self.cloud.received)

    def test_the_official_clients(self):
        self.run_script("clients.mjs", 4)

    def test_the_vercel_ai_sdk(self):
        self.run_script("vercel.mjs", 6)


if __name__ == "__main__":
    unittest.main()
