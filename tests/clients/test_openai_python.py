"""The official OpenAI SDK's chat completions by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import unittest
import urllib.request
from typing import Annotated, Literal

import openai
import pydantic
from fake_cloud import ANSWER
from forms import Dish
from matrix import Matrix, Said, Way
from openai_client import client, refused
from prompts import CARD_PARTS, ORDINARY, REGULATED, WEATHER_SAID, WEATHER_SCHEMA
from sides import OnSides, side

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
        "description": WEATHER_SAID,
        "strict": True,
        "parameters": WEATHER_SCHEMA,
    },
}
ASKED = dict(model="auto", max_tokens=32, temperature=0)
TOKENS = ("prompt_tokens", "completion_tokens")


class ChatCompletions(Way):
    """`client.chat.completions`."""

    name = "OpenAI for Python, chat completions"

    def ask(self, gateway, messages, **options):
        return client(gateway).chat.completions.create(messages=messages, **ASKED | options)

    def said(self, reply):
        message = reply.choices[0].message
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]
        tokens = tuple(getattr(reply.usage, name) for name in TOKENS)
        return Said([message.content or ""], tokens, calls, message)

    def chat(self, gateway, messages):
        return self.said(self.ask(gateway, messages))

    def stream(self, gateway, messages):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(self.ask(gateway, messages, **options))
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        return Said([p for p in pieces if p], tuple(getattr(chunks[-1].usage, name) for name in TOKENS))

    def call(self, gateway, question, must, stream):
        options = ASKED | dict(tools=[WEATHER], max_tokens=120, messages=question, parallel_tool_calls=False)
        options |= {"tool_choice": "required"} if must else {}
        completions = client(gateway).chat.completions
        if not stream:
            return self.said(completions.create(**options))
        with completions.stream(**options, stream_options={"include_usage": True}) as events:
            for event in events:
                pass
            return self.said(events.get_final_completion())

    def give_back(self, gateway, question, called, result):
        call = called.turn.tool_calls[0]
        given = {"role": "tool", "tool_call_id": call.id, "content": result}
        return self.said(self.ask(gateway, [*question, called.turn, given], tools=[WEATHER], tool_choice="none"))

    def form(self, gateway, question):
        messages = [{"role": "user", "content": question}]
        reply = client(gateway).chat.completions.parse(messages=messages, response_format=Dish, **ASKED)
        return reply.choices[0].message.parsed

    def error(self, gateway, messages, model, stream):
        return refused(lambda: self.ask(gateway, messages, model=model, stream=stream))


class ChatCompletionsMatrix(Matrix, OnSides):
    """Chat completions against every side."""

    way = ChatCompletions()


class Edge(OnSides):
    """No cloud is configured: the embedded model answers."""

    def setUp(self):
        super().setUp()
        self.client = client(self.edge)

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
        self.assertTrue(ChatCompletions().chat(self.edge, ORDINARY).text)


class Hybrid(OnSides):
    """One cloud is configured: what may leave goes there, the rest never does."""

    def setUp(self):
        super().setUp()
        self.cloud, self.gateway = side("openai").cloud, side("openai").gateway
        self.client = client(self.gateway)

    def ask(self, messages, **options):
        return self.client.chat.completions.with_raw_response.create(
            model="gpt-any", messages=messages, max_tokens=8, **options
        )

    def test_a_card_number_never_leaves(self):
        for stream in (False, True):
            raw = self.ask(REGULATED, stream=stream)
            self.assertEqual(raw.headers["x-sluice-route"], "edge")
            self.assertIn("PCI", raw.headers["x-sluice-labels"])
            if stream:
                self.assertTrue(list(raw.parse()))
        self.assertEqual(self.cloud.received, b"")

    def test_usage_is_told_to_who_asks(self):
        chunks = list(self.ask(ORDINARY, stream=True).parse())
        self.assertEqual([c.choices[0].delta.content or "" for c in chunks if c.choices][1:-1], ANSWER)
        self.assertTrue(all(c.usage is None for c in chunks))

    def test_tagged_text_never_leaves(self):
        # It taints the conversation, so no other test may begin with the same words.
        tagged = [{"role": "user", "content": "Name three vegetables."}]
        raw = self.ask(tagged, extra_headers={"x-data-class": "phi"})
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
            self.assertFalse([part for part in CARD_PARTS if part in line])

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
