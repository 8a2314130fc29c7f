"""curl, as people try a gateway first: whole, streamed, tools, a schema, errors.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import shutil
import subprocess
import unittest

from fake_cloud import ANSWER, FORM_INPUT, TOOL_INPUT
from forms import Soup
from prompts import ORDINARY, REGULATED, TOO_LONG, WEATHER_SCHEMA
from sides import BothSides

SECONDS_MAX = "60"
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER_SCHEMA}}]
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "soup", "strict": True, "schema": Soup.model_json_schema()},
}


def curl(gateway, path, body=None):
    """Status, headers in lower case, body."""
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", SECONDS_MAX]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-binary", "@-"]
    done = subprocess.run(
        [*command, gateway.url + path], input=None if body is None else json.dumps(body),
        capture_output=True, text=True, check=True,
    )
    head, text = done.stdout.replace("\r\n", "\n").split("\n\n", 1)
    status, *lines = head.split("\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, text


def chat(gateway, messages, **options):
    body = {"model": "auto", "max_tokens": 48, "messages": messages} | options
    return curl(gateway, "/v1/chat/completions", body)


def events(text):
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


@unittest.skipUnless(shutil.which("curl"), "no curl")
class Curl(BothSides):
    """What a person sees who types it."""

    def test_the_edge_answers_whole_and_streamed(self):
        status, headers, text = chat(self.edge, ORDINARY)
        self.assertEqual((status, headers["x-sluice-route"]), (200, "edge"))
        self.assertTrue(json.loads(text)["choices"][0]["message"]["content"].strip())
        status, headers, text = chat(self.edge, ORDINARY, stream=True)
        self.assertEqual((status, headers["x-sluice-route"]), (200, "edge"))
        self.assertEqual(events(text)[-1], "[DONE]")
        self.assertGreater(len(events(text)), 3)

    def test_the_cloud_answers_whole_and_streamed(self):
        _, headers, text = chat(self.hybrid, ORDINARY)
        self.assertEqual(headers["x-sluice-route"], "cloud")
        self.assertEqual(json.loads(text)["choices"][0]["message"]["content"], "".join(ANSWER))
        _, _, text = chat(self.hybrid, ORDINARY, stream=True)
        chunks = [json.loads(event) for event in events(text)[:-1]]
        said = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
        self.assertEqual("".join(said), "".join(ANSWER))

    def test_tools_and_schemas_are_kept_on_both_sides(self):
        asked = dict(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=120)
        for gateway, checks in ((self.edge, False), (self.hybrid, True)):
            reply = json.loads(chat(gateway, ORDINARY, **asked)[2])["choices"][0]
            self.assertEqual(reply["finish_reason"], "tool_calls")
            call = reply["message"]["tool_calls"][0]
            given = json.loads(call["function"]["arguments"])
            self.assertEqual(given == TOOL_INPUT or not checks, True, given)
            self.assertEqual(set(given), {"city", "unit"})
            result = {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}
            messages = [*ORDINARY, reply["message"], result]
            status, _, text = chat(gateway, messages, tools=TOOLS, tool_choice="none")
            self.assertEqual(status, 200, text)
            form = json.loads(chat(gateway, ORDINARY, response_format=FORM)[2])
            soup = Soup.model_validate_json(form["choices"][0]["message"]["content"])
            self.assertTrue(soup.minutes == FORM_INPUT["minutes"] or not checks)

    def test_errors_say_what_is_wrong(self):
        for body, status, code in (
            ({"model": "auto", "messages": "no list"}, 400, None),
            ({"messages": ORDINARY}, 400, None),
            ({"model": "m", "messages": [{"role": "user", "content": TOO_LONG}]}, 400,
             "context_length_exceeded"),
        ):
            got, _, text = curl(self.edge, "/v1/chat/completions", body)
            self.assertEqual((got, json.loads(text)["error"]["code"]), (status, code), text)
        self.assertEqual(curl(self.edge, "/v1/nothing")[0], 404)

    def test_private_stays_here_and_so_does_a_card(self):
        before = self.cloud.received
        for messages, model in ((ORDINARY, "private"), (REGULATED, "auto")):
            _, headers, _ = chat(self.hybrid, messages, model=model)
            self.assertEqual(headers["x-sluice-route"], "edge")
        self.assertEqual(self.cloud.received, before)

    def test_models_are_listed(self):
        names = [m["id"] for m in json.loads(curl(self.edge, "/v1/models")[2])["data"]]
        self.assertLessEqual({"auto", "fast", "best", "private"}, set(names))


if __name__ == "__main__":
    unittest.main()
