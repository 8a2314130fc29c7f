"""What runs on Node against the real binary: the official SDKs (`clients.mjs`), the Vercel AI SDK (`vercel.mjs`).

Skipped where `npm install` has not been run in this folder; `.ci/run` runs it.
"""

import json
import subprocess
import sys
import unittest
from pathlib import Path

from fake_cloud import ANSWER, FORM_INPUT, NO_SUCH_MODEL, NO_SUCH_MODEL_SAID, TOOL_INPUT
from gateway import CLOUD_KEY
from matrix import table
from prompts import CLIENT_KEY, ORDINARY, QUESTION, REGULATED, RESULT, TOO_LONG, WEATHER_SAID, WEATHER_SCHEMA
from sides import CLOUDS, SIDES, SLOW_SECONDS_MIN, OnSides, side

FOLDER = Path(__file__).parent
SECONDS_MAX = 300
OFFICIAL, VERCEL = ("OpenAI for Node", "Anthropic for Node"), ("Vercel AI SDK",)
SHARED = {
    "answer": "".join(ANSWER), "formInput": FORM_INPUT, "toolInput": TOOL_INPUT,
    "noSuchModel": NO_SUCH_MODEL, "noSuchModelSaid": NO_SUCH_MODEL_SAID,
    "ordinary": ORDINARY[0]["content"], "regulated": REGULATED[0]["content"],
    "question": QUESTION, "result": RESULT, "weatherSaid": WEATHER_SAID, "weatherSchema": WEATHER_SCHEMA,
    "tooLong": TOO_LONG, "clientKey": CLIENT_KEY,
}


@unittest.skipUnless((FOLDER / "node_modules").is_dir(), "no node_modules")
class Node(OnSides):
    """One run of each script: the rows of README.md whose names begin so."""

    def run_script(self, name, clients):
        given = SHARED | {"sides": {name: side(name).gateway.url for name in SIDES}}
        done = subprocess.run(
            ["node", FOLDER / name, json.dumps(given)], capture_output=True, text=True, timeout=SECONDS_MAX
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        cells = [line.split("\t") for line in done.stdout.splitlines()]
        for *cell, milliseconds in cells:
            if int(milliseconds) >= SLOW_SECONDS_MIN * 1000:
                print(f"    {int(milliseconds) / 1000:.1f} s: {', '.join(cell)}", file=sys.stderr)
        rows = {row: marks for row, marks in table().items() if row.startswith(clients)}
        told = {(row, case) for row, marks in rows.items() for case in marks if marks[case] == "yes"}
        told = {(*cell, name) for cell in told for name in SIDES}
        self.assertEqual({tuple(cell) for *cell, _ in cells}, told)
        self.check_clouds()

    def check_clouds(self):
        self.assert_no_card_left()
        for name in CLOUDS:
            self.assertIn(RESULT, str(side(name).cloud.requests))
            self.assertIn(CLOUD_KEY.encode(), side(name).cloud.received)
            self.assertNotIn(CLIENT_KEY.encode(), side(name).cloud.received)

    def test_the_official_clients(self):
        self.run_script("clients.mjs", OFFICIAL)

    def test_the_vercel_ai_sdk(self):
        self.run_script("vercel.mjs", VERCEL)


if __name__ == "__main__":
    unittest.main()
