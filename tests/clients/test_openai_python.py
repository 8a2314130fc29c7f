"""The official OpenAI SDK talks to the gateway by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import unittest
import urllib.request
from typing import Annotated, Literal

import openai
import pydantic
from fake_cloud import ANSWER, CloudServer
from gateway import BINARY, Gateway
from openai_client import client
from prompts import ORDINARY, REGULATED, WEATHER_SCHEMA

Short = Annotated[str, pydantic.Field(max_length=40)]


class Recipe(pydantic.BaseModel):
    """What a reply is parsed into; the model was never trained to write JSON."""

    model_config = pydantic.ConfigDict(extra="forbid")

    title: Short
    minutes: int = pydantic.Field(ge=1, le=600)
    kind: Literal["soup", "cake", "salad"]
    steps: list[Short] = pydantic.Field(max_length=3)
    note: Short | None


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "strict": True,
        "parameters": WEATHER_SCHEMA,
    },
}


class Edge(unittest.TestCase):
    """No cloud is configured: the embedded model answers."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(BINARY))
        cls.client = client(cls.gateway)

    def test_answers_a_chat(self):
        reply = self.client.chat.completions.create(
            model="nano", messages=ORDINARY, max_tokens=32, temperature=0
        )
        self.assertTrue(reply.choices[0].message.content.strip())
        self.assertEqual(reply.choices[0].message.role, "assistant")
        self.assertIn(reply.choices[0].finish_reason, ("stop", "length"))
        self.assertGreater(reply.usage.prompt_tokens, 0)
        self.assertEqual(
            reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens
        )

    def test_streams_the_text_that_it_answers_unstreamed(self):
        asked = dict(model="nano", messages=ORDINARY, max_tokens=32, temperature=0, seed=1)
        whole = self.client.chat.completions.create(**asked)
        stream = self.client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        self.assertEqual("".join(pieces), whole.choices[0].message.content)
        self.assertGreater(len([p for p in pieces if p]), 1, "the reply came in one piece")
        self.assertEqual(chunks[-1].usage, whole.usage)

    def test_tells_how_it_decided(self):
        raw = self.client.chat.completions.with_raw_response.create(
            model="nano", messages=ORDINARY, max_tokens=4
        )
        self.assertEqual(raw.headers["x-sluice-route"], "edge")
        self.assertEqual(raw.headers["x-sluice-upstream"], "edge")
        self.assertEqual(raw.headers["x-sluice-model-quality"], "demo")
        for name in ("class", "labels", "rule", "decision"):
            self.assertIn(f"x-sluice-{name}", raw.headers)

    def test_lists_models(self):
        self.assertTrue([model.id for model in self.client.models.list()])

    def test_wrong_requests_raise_the_errors_of_the_sdk(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.chat.completions.create(model="nano", messages="not a list")
        self.assertEqual(refused.exception.type, "invalid_request_error")
        with self.assertRaises(openai.NotFoundError):
            self.client.post("/no-such-endpoint", body={}, cast_to=object)

    def test_a_refusal_of_policy_is_a_permission_error_with_a_stable_code(self):
        picture = {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}
        with self.assertRaises(openai.PermissionDeniedError) as refused:
            self.client.chat.completions.create(
                model="nano", messages=[{"role": "user", "content": [picture]}]
            )
        self.assertEqual(refused.exception.code, "policy_blocked")
        self.assertEqual(refused.exception.response.headers["x-sluice-route"], "refuse")

    def test_a_prompt_beyond_the_context_is_a_clear_error(self):
        long = [{"role": "user", "content": "word " * 20_000}]
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.chat.completions.create(model="nano", messages=long)
        self.assertEqual(refused.exception.code, "context_length_exceeded")

    def test_a_tool_is_called_and_its_result_is_answered(self):
        messages = [{"role": "user", "content": "What is the weather in Paris?"}]
        asked = dict(
            model="nano", tools=[WEATHER], tool_choice="required", parallel_tool_calls=False,
            max_tokens=120, seed=3,
        )
        reply = self.client.chat.completions.create(messages=messages, **asked)
        self.assertEqual(reply.choices[0].finish_reason, "tool_calls")
        call = reply.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        arguments = json.loads(call.function.arguments)
        self.assertIn(arguments["unit"], ("celsius", "fahrenheit"))
        messages.append(reply.choices[0].message)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"})
        answer = self.client.chat.completions.create(
            model="nano", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=24
        )
        self.assertTrue(answer.choices[0].message.content)

        with self.client.chat.completions.stream(messages=messages[:1], **asked) as stream:
            events = [event.type for event in stream]
            streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertIn("tool_calls.function.arguments.delta", events)
        self.assertEqual(streamed.function.arguments, call.function.arguments)
        self.assertTrue(streamed.function.parsed_arguments)

    def test_a_reply_is_parsed_into_a_pydantic_model(self):
        for seed, most in ((1, 300), (2, 90)):
            reply = self.client.chat.completions.create(
                model="nano",
                messages=[{"role": "user", "content": "Give me a recipe."}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {
                        "name": "recipe",
                        "strict": True,
                        "schema": Recipe.model_json_schema(),
                    },
                },
                seed=seed,
                max_tokens=most,
            )
            recipe = Recipe.model_validate_json(reply.choices[0].message.content)
            self.assertTrue(1 <= recipe.minutes <= 600)
        parsed = self.client.chat.completions.parse(
            model="nano",
            messages=[{"role": "user", "content": "Give me a recipe."}],
            response_format=Recipe,
            seed=1,
        )
        self.assertIsInstance(parsed.choices[0].message.parsed, Recipe)

    def test_a_schema_that_cannot_be_enforced_is_a_clear_error(self):
        schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.chat.completions.create(
                model="nano",
                messages=ORDINARY,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": schema},
                },
            )
        self.assertEqual(refused.exception.param, "response_format.json_schema.schema")
        self.assertIn('"not"', str(refused.exception))

    def test_several_choices_and_log_probabilities(self):
        reply = self.client.chat.completions.create(
            model="nano", messages=ORDINARY, n=2, logprobs=True, top_logprobs=2, max_tokens=8
        )
        self.assertEqual([choice.index for choice in reply.choices], [0, 1])
        for choice in reply.choices:
            spelled = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
            self.assertEqual(spelled.decode(), choice.message.content)
            self.assertEqual(len(choice.logprobs.content[0].top_logprobs), 2)

    def test_a_stream_that_is_left_does_not_stop_the_next_request(self):
        with self.client.chat.completions.create(
            model="nano", messages=ORDINARY, stream=True
        ) as stream:
            next(iter(stream))
        self.test_answers_a_chat()


class Hybrid(unittest.TestCase):
    """One cloud is configured: what may leave goes there, the rest never does."""

    def setUp(self):
        self.cloud = self.enterContext(CloudServer())
        self.gateway = self.enterContext(Gateway(BINARY, self.cloud.base_url))
        self.client = client(self.gateway)

    def ask(self, messages, **options):
        return self.client.chat.completions.with_raw_response.create(
            model="gpt-any", messages=messages, max_tokens=8, **options
        )

    def test_an_ordinary_prompt_is_answered_by_the_cloud(self):
        raw = self.ask(ORDINARY)
        self.assertEqual(raw.headers["x-sluice-route"], "cloud")
        self.assertEqual(raw.headers["x-sluice-upstream"], "cloud")
        self.assertEqual(raw.parse().choices[0].message.content, "".join(ANSWER))

    def test_a_stream_from_the_cloud_arrives_piece_by_piece(self):
        chunks = list(self.ask(ORDINARY, stream=True).parse())
        pieces = [c.choices[0].delta.content for c in chunks if c.choices]
        self.assertEqual([p for p in pieces if p], ANSWER)
        self.assertTrue(all(c.usage is None for c in chunks), "usage was not asked for")

    def test_the_key_of_the_client_stays_and_the_key_of_the_gateway_goes(self):
        self.ask(ORDINARY)
        self.assertIn(b"sk-of-the-gateway", self.cloud.received)
        self.assertNotIn(b"sk-of-the-client", self.cloud.received)

    def test_a_card_number_never_leaves(self):
        for stream in (False, True):
            raw = self.ask(REGULATED, stream=stream)
            self.assertEqual(raw.headers["x-sluice-route"], "edge")
            self.assertIn("PCI", raw.headers["x-sluice-labels"])
            if stream:
                self.assertTrue(list(raw.parse()))
        self.assertEqual(self.cloud.received, b"")

    def test_tagged_text_never_leaves(self):
        raw = self.ask(ORDINARY, extra_headers={"x-data-class": "phi"})
        self.assertEqual(raw.headers["x-sluice-route"], "edge")
        self.assertIn("HIPAA", raw.headers["x-sluice-labels"])
        self.assertEqual(self.cloud.received, b"")

    def test_a_failing_cloud_leaves_ordinary_prompts_to_the_edge(self):
        self.cloud.failing = True
        raw = self.ask(ORDINARY)
        self.assertEqual(raw.headers["x-sluice-route"], "edge")
        self.assertTrue(raw.parse().choices[0].message.content)

    def test_every_attempt_is_on_record_without_its_text(self):
        self.ask(ORDINARY)
        self.ask(REGULATED)
        lines = self.gateway.audit_lines
        self.assertGreaterEqual(len(lines), 2)
        for line in lines:
            self.assertIn("seq", json.loads(line))
            self.assertNotIn("fruits", line)
            self.assertNotIn("4111", line)

    def test_metrics_count_requests_by_route(self):
        self.ask(ORDINARY)
        self.ask(REGULATED)
        base = self.gateway.metrics_url.removesuffix("/metrics")
        with urllib.request.urlopen(f"{base}/metrics") as reply:
            text = reply.read().decode()
        for route in ("cloud", "edge"):
            self.assertRegex(text, rf'sluice_requests_total{{[^}}]*route="{route}"[^}}]*}} [1-9]')


if __name__ == "__main__":
    unittest.main()
