"""curl, as people try a gateway first: whole, streamed, tools, a form, errors, in every dialect that chats.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import shutil
import subprocess
import unittest

from forms import Dish
from matrix import Matrix, Said, Way
from prompts import ORDINARY, REGULATED, WEATHER_SAID, WEATHER_SCHEMA
from sides import OnSides, side

SECONDS_MAX = "60"


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


def events(text):
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(event) for event in data if event != "[DONE]"]


class Curl(Way):
    """What a person types: a dialect's path, and JSON."""

    path = ""
    asked = {}

    def ask(self, gateway, messages, **options):
        status, _, text = curl(gateway, self.path, self.asked | self.conversation(messages) | options)
        assert status == 200, text
        return text

    def conversation(self, messages):
        return {"messages": messages}

    def chat(self, gateway, messages):
        return self.said(json.loads(self.ask(gateway, messages)))

    def stream(self, gateway, messages, **options):
        return self.said_in(events(self.ask(gateway, messages, stream=True, **options)))

    def call(self, gateway, question, must, stream):
        options = {"tools": [self.tool]} | (self.must if must else {}) | {self.limit: 120}
        if stream:
            return self.stream(gateway, question, **options)
        return self.said(json.loads(self.ask(gateway, question, **options)))

    def give_back(self, gateway, question, called, result):
        messages = [*question, *self.result(called.turn, result)]
        return self.said(json.loads(self.ask(gateway, messages, tools=[self.tool])))

    def form(self, gateway, question):
        reply = self.ask(gateway, [{"role": "user", "content": question}], **self.in_form)
        return json.loads(self.said(json.loads(reply)).text)

    def error(self, gateway, messages, model, stream):
        body = self.asked | self.conversation(messages) | {"model": model, "stream": stream}
        status, _, text = curl(gateway, self.path, body)
        return status, json.loads(text)["error"]["message"]


class ChatCompletions(Curl):
    """OpenAI's chat completions."""

    name, path, limit = "curl, chat completions", "/v1/chat/completions", "max_tokens"
    asked = {"model": "auto", "max_tokens": 48, "temperature": 0}
    tool = {
        "type": "function",
        "function": {"name": "get_weather", "description": WEATHER_SAID, "parameters": WEATHER_SCHEMA},
    }
    must = {"tool_choice": "required", "parallel_tool_calls": False}
    form_named = {"name": "dish", "strict": True, "schema": Dish.model_json_schema()}
    in_form = {"response_format": {"type": "json_schema", "json_schema": form_named}}

    def said(self, reply):
        message, usage = reply["choices"][0]["message"], reply["usage"]
        calls = [call["function"] for call in message.get("tool_calls") or []]
        calls = [(call["name"], json.loads(call["arguments"])) for call in calls]
        return Said([message["content"] or ""], (usage["prompt_tokens"], usage["completion_tokens"]), calls, message)

    def said_in(self, chunks):
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or []]
        arguments = "".join(call.get("arguments") or "" for call in calls)
        named = [(calls[0]["name"], json.loads(arguments))] if calls else []
        pieces = [delta["content"] for delta in deltas if delta.get("content")]
        return Said(pieces, None, named)

    def result(self, turn, result):
        return [turn, {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": result}]


class Responses(Curl):
    """OpenAI's responses."""

    name, path, limit = "curl, responses", "/v1/responses", "max_output_tokens"
    asked = {"model": "auto", "max_output_tokens": 48, "temperature": 0}
    tool = {
        "type": "function", "name": "get_weather", "description": WEATHER_SAID, "parameters": WEATHER_SCHEMA,
    }
    must = {"tool_choice": "required", "parallel_tool_calls": False}
    in_form = {"text": {"format": {"type": "json_schema"} | ChatCompletions.form_named}}

    def conversation(self, messages):
        return {"input": messages}

    def said(self, reply, pieces=None):
        output, usage = reply["output"], reply["usage"]
        calls = [item for item in output if item["type"] == "function_call"]
        parts = [part for item in output if item["type"] == "message" for part in item["content"]]
        named = [(call["name"], json.loads(call["arguments"])) for call in calls]
        tokens = (usage["input_tokens"], usage["output_tokens"])
        return Said(pieces or [part["text"] for part in parts], tokens, named, output)

    def said_in(self, told):
        pieces = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
        return self.said(told[-1]["response"], pieces)

    def result(self, turn, result):
        call = next(item for item in turn if item["type"] == "function_call")
        return [*turn, {"type": "function_call_output", "call_id": call["call_id"], "output": result}]


class Messages(Curl):
    """Anthropic's messages."""

    name, path, limit = "curl, messages", "/v1/messages", "max_tokens"
    asked = {"model": "auto", "max_tokens": 48, "temperature": 0}
    tool = {"name": "get_weather", "description": WEATHER_SAID, "input_schema": WEATHER_SCHEMA}
    must = {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    in_form = {"output_config": {"format": {"type": "json_schema", "schema": Dish.model_json_schema()}}}

    def said(self, reply):
        content, usage = reply["content"], reply["usage"]
        pieces = [block["text"] for block in content if block["type"] == "text"]
        calls = [(block["name"], block["input"]) for block in content if block["type"] == "tool_use"]
        return Said(pieces, (usage["input_tokens"], usage["output_tokens"]), calls, content)

    def said_in(self, told):
        deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
        begun = [event["content_block"] for event in told if event["type"] == "content_block_start"]
        uses = [block["name"] for block in begun if block["type"] == "tool_use"]
        pieces = [delta["text"] for delta in deltas if delta["type"] == "text_delta"]
        inputs = "".join(delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta")
        usage = told[-2]["usage"]
        calls = [(name, json.loads(inputs)) for name in uses]
        return Said(pieces, (usage["input_tokens"], usage["output_tokens"]), calls)

    def result(self, turn, result):
        use = next(block for block in turn if block["type"] == "tool_use")
        given = {"type": "tool_result", "tool_use_id": use["id"], "content": result}
        return [{"role": "assistant", "content": turn}, {"role": "user", "content": [given]}]


@unittest.skipUnless(shutil.which("curl"), "no curl")
class ChatCompletionsMatrix(Matrix, OnSides):
    """Chat completions against every side."""

    way = ChatCompletions()


@unittest.skipUnless(shutil.which("curl"), "no curl")
class ResponsesMatrix(Matrix, OnSides):
    """Responses against every side."""

    way = Responses()


@unittest.skipUnless(shutil.which("curl"), "no curl")
class MessagesMatrix(Matrix, OnSides):
    """Messages against every side."""

    way = Messages()


@unittest.skipUnless(shutil.which("curl"), "no curl")
class Typed(OnSides):
    """What a person sees besides who types it."""

    def chat(self, gateway, messages, **options):
        return curl(gateway, "/v1/chat/completions", ChatCompletions.asked | {"messages": messages} | options)

    def test_a_stream_ends_with_done(self):
        _, headers, text = self.chat(self.edge, ORDINARY, stream=True)
        self.assertEqual(headers["x-sluice-route"], "edge")
        self.assertTrue(text.rstrip().endswith("data: [DONE]"))

    def test_errors_say_what_is_wrong(self):
        for body in ({"model": "auto", "messages": "no list"}, {"messages": ORDINARY}):
            status, _, text = curl(self.edge, "/v1/chat/completions", body)
            self.assertEqual((status, json.loads(text)["error"]["code"]), (400, None), text)
        self.assertEqual(curl(self.edge, "/v1/nothing")[0], 404)

    def test_private_stays_here_and_so_does_a_card(self):
        it = side("openai")
        for messages, model in ((ORDINARY, "private"), (REGULATED, "auto")):
            _, headers, _ = self.chat(it.gateway, messages, model=model)
            self.assertEqual(headers["x-sluice-route"], "edge")
        self.assertEqual(it.cloud.received, b"")

    def test_models_are_listed(self):
        names = [m["id"] for m in json.loads(curl(self.edge, "/v1/models")[2])["data"]]
        self.assertLessEqual({"auto", "fast", "best", "private"}, set(names))


if __name__ == "__main__":
    unittest.main()
