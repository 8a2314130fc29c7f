"""The official OpenAI SDK's responses, legacy completions and embeddings against the gateway.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import unittest

import openai
from forms import Dish, Soup
from matrix import Matrix, Said, Way
from openai_client import client, refused
from prompts import CARD, WEATHER_SAID, WEATHER_SCHEMA
from sides import OnSides, side

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": WEATHER_SAID,
    "strict": True,
    "parameters": WEATHER_SCHEMA,
}
ASKED = dict(model="auto", max_output_tokens=32, temperature=0)


class Responses(Way):
    """`client.responses`."""

    name = "OpenAI for Python, responses"

    def ask(self, gateway, items, **options):
        return client(gateway).responses.create(input=items, **ASKED | options)

    def said(self, reply, pieces=None):
        calls = [item for item in reply.output if item.type == "function_call"]
        usage = (reply.usage.input_tokens, reply.usage.output_tokens)
        named = [(call.name, json.loads(call.arguments)) for call in calls]
        return Said(pieces or [reply.output_text], usage, named, reply.output)

    def chat(self, gateway, messages):
        return self.said(self.ask(gateway, messages))

    def stream(self, gateway, messages, **options):
        with client(gateway).responses.stream(input=messages, **ASKED | options) as stream:
            events = list(stream)
        # The last one holds the whole, be it complete or cut at its limit.
        reply = events[-1].response
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert reply.output_text == "".join(pieces), "the whole is not the sum of its pieces"
        return self.said(reply, pieces)

    def call(self, gateway, question, must, stream):
        options = dict(tools=[WEATHER], max_output_tokens=120, parallel_tool_calls=False)
        options |= {"tool_choice": "required"} if must else {}
        if stream:
            return self.stream(gateway, question, **options)
        return self.said(self.ask(gateway, question, **options))

    def give_back(self, gateway, question, called, result):
        call = next(item for item in called.turn if item.type == "function_call")
        given = {"type": "function_call_output", "call_id": call.call_id, "output": result}
        items = [*question, *called.turn, given]
        return self.said(self.ask(gateway, items, tools=[WEATHER], tool_choice="none"))

    def form(self, gateway, question):
        return client(gateway).responses.parse(input=question, text_format=Dish, **ASKED).output_parsed

    def error(self, gateway, messages, model, stream):
        return refused(lambda: self.ask(gateway, messages, model=model, stream=stream))


class Completions(Way):
    """`client.completions`, which continue a text."""

    name = "OpenAI for Python, legacy completions"
    lacks = {"tools": "legacy completions have no tools", "form": "legacy completions have no schemas"}

    def ask(self, gateway, messages, **options):
        asked = dict(model="auto", prompt=messages[0]["content"] + " Once", max_tokens=16, temperature=0)
        return client(gateway).completions.create(**asked | options)

    def chat(self, gateway, messages):
        reply = self.ask(gateway, messages)
        return Said([reply.choices[0].text], (reply.usage.prompt_tokens, reply.usage.completion_tokens))

    def stream(self, gateway, messages):
        chunks = list(self.ask(gateway, messages, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
        usage = chunks[-1].usage
        return Said([p for p in pieces if p], (usage.prompt_tokens, usage.completion_tokens))

    def error(self, gateway, messages, model, stream):
        return refused(lambda: self.ask(gateway, messages, model=model, stream=stream))


class ResponsesMatrix(Matrix, OnSides):
    """Responses against every side."""

    way = Responses()


class CompletionsMatrix(Matrix, OnSides):
    """Legacy completions against every side."""

    way = Completions()


class Edge(OnSides):
    """No cloud is configured: the embedded model answers."""

    def setUp(self):
        super().setUp()
        self.client = client(self.edge)

    def test_events_are_numbered(self):
        asked = dict(model="nano", input="Name three fruits.", max_output_tokens=8)
        with self.client.responses.stream(**asked, instructions="Be brief.") as stream:
            events = list(stream)
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertFalse(events[-1].response.store)

    def test_a_reply_keeps_to_bounds(self):
        reply = self.client.responses.parse(
            model="nano", input="How long does a soup take?", text_format=Soup, max_output_tokens=60
        )
        self.assertIsInstance(reply.output_parsed, Soup)

    def test_what_refers_to_something_stored_is_a_clear_error(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.responses.create(model="nano", input="Go on.", previous_response_id="resp_1")
        self.assertEqual(refused.exception.code, "stored_state_not_served")
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve("resp_1")

    def test_a_hosted_tool_is_a_refusal_of_policy(self):
        with self.assertRaises(openai.PermissionDeniedError) as refused:
            self.client.responses.create(model="nano", input="News?", tools=[{"type": "web_search"}])
        self.assertEqual(refused.exception.code, "policy_blocked")

    def test_counts_tokens(self):
        counted = self.client.responses.input_tokens.count(model="nano", input="Who are you?")
        self.assertGreater(counted.input_tokens, 0)

    def test_an_edge_without_vectors_says_so(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.embeddings.create(model="nano", input="Some text.")
        self.assertEqual(refused.exception.code, "unsupported_by_upstream")


class Hybrid(OnSides):
    """A cloud is configured: what may leave goes there, the rest never does."""

    def test_every_kind_of_cloud_is_asked_in_its_own_words(self):
        for kind, paths in (
            ("openai", {"/v1/chat/completions", "/v1/completions"}),
            ("anthropic", {"/v1/messages"}),
        ):
            for way in (Responses(), Completions()):
                way.chat(side(kind).gateway, [{"role": "user", "content": "Name three fruits."}])
            self.assertEqual(set(side(kind).cloud.paths), paths)

    def test_nothing_is_stored_and_a_card_number_never_leaves(self):
        it = side("openai")
        ask = client(it.gateway)
        ask.responses.create(model="any", input="Name three fruits.", store=True)
        self.assertIs(it.cloud.requests[-1]["store"], False)
        before = it.cloud.received
        with self.assertRaises(openai.BadRequestError):
            ask.embeddings.create(model="any", input=f"The card {CARD}")
        self.assertEqual(it.cloud.received, before)

    def test_vectors_of_ordinary_texts_come_from_a_cloud_that_makes_them(self):
        asked = dict(model="any", input=["One.", "Two."])
        vectors = client(side("openai").gateway).embeddings.create(**asked)
        self.assertEqual([item.embedding for item in vectors.data], [[1.0, 2.0]] * 2)
        with self.assertRaises(openai.BadRequestError) as refused:
            client(side("anthropic").gateway).embeddings.create(**asked)
        self.assertEqual(refused.exception.code, "unsupported_by_upstream")


if __name__ == "__main__":
    unittest.main()
