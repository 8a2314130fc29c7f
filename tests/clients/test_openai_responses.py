"""The official OpenAI SDK's responses, legacy completions and embeddings against the gateway.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import unittest

import openai
from fake_cloud import ANSWER, CloudServer
from forms import Soup
from gateway import BINARY, Gateway
from openai_client import client
from prompts import CARD, WEATHER_SCHEMA

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "strict": True,
    "parameters": WEATHER_SCHEMA,
}


class Edge(unittest.TestCase):
    """No cloud is configured: the embedded model answers."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(BINARY))
        cls.client = client(cls.gateway)

    def test_answers_and_streams_the_same_text(self):
        asked = dict(model="nano", input="Name three fruits.", max_output_tokens=32, temperature=0)
        whole = self.client.responses.create(**asked, instructions="Be brief.")
        self.assertTrue(whole.output_text.strip())
        self.assertFalse(whole.store)
        with self.client.responses.stream(**asked, instructions="Be brief.") as stream:
            events = list(stream)
            final = stream.get_final_response()
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        pieces = [e.delta for e in events if e.type == "response.output_text.delta"]
        self.assertEqual("".join(pieces), whole.output_text)
        self.assertGreater(len(pieces), 1, "the reply came in one piece")
        self.assertEqual(final.output_text, whole.output_text)
        self.assertEqual(final.usage, whole.usage)

    def test_a_tool_is_called_and_its_result_is_answered(self):
        conversation = [{"role": "user", "content": "What is the weather in Paris?"}]
        asked = dict(model="nano", tools=[WEATHER], tool_choice="required", temperature=0)
        reply = self.client.responses.create(
            input=conversation, parallel_tool_calls=False, max_output_tokens=120, **asked
        )
        call = next(item for item in reply.output if item.type == "function_call")
        self.assertIn(json.loads(call.arguments)["unit"], ("celsius", "fahrenheit"))
        conversation += reply.output
        conversation.append(
            {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 21 degrees"}
        )
        answer = self.client.responses.create(
            model="nano", input=conversation, tools=[WEATHER], tool_choice="none", max_output_tokens=24
        )
        self.assertTrue(answer.output_text)

    def test_a_reply_is_parsed_into_a_pydantic_model(self):
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

    def test_a_text_goes_on(self):
        asked = dict(model="nano", prompt="Once upon a", max_tokens=8, temperature=0)
        whole = self.client.completions.create(**asked)
        self.assertEqual(whole.object, "text_completion")
        chunks = list(self.client.completions.create(**asked, stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), whole.choices[0].text)

    def test_an_edge_without_vectors_says_so(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.client.embeddings.create(model="nano", input="Some text.")
        self.assertEqual(refused.exception.code, "unsupported_by_upstream")


class Hybrid(unittest.TestCase):
    """One cloud is configured: what may leave goes there, the rest never does."""

    def setUp(self):
        self.cloud = self.enterContext(CloudServer())

    def client_of(self, kind):
        return client(self.enterContext(Gateway(BINARY, self.cloud.base_url, kind=kind)))

    def test_an_ordinary_prompt_is_answered_by_either_kind_of_cloud(self):
        for kind in ("openai", "anthropic"):
            asked = dict(model="any", input="Name three fruits.")
            client = self.client_of(kind)
            self.assertEqual(client.responses.create(**asked).output_text, "".join(ANSWER))
            with client.responses.stream(**asked) as stream:
                final = stream.get_final_response()
            self.assertEqual(final.output_text, "".join(ANSWER))
            self.assertEqual((final.usage.input_tokens, final.usage.output_tokens), (7, 3))
            chat = client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "Name three fruits."}]
            )
            self.assertEqual(chat.choices[0].message.content, "".join(ANSWER))
        self.assertEqual(set(self.cloud.paths), {"/v1/chat/completions", "/v1/messages"})

    def test_nothing_is_stored_and_a_card_number_never_leaves(self):
        client = self.client_of("openai")
        client.responses.create(model="any", input="Name three fruits.", store=True)
        self.assertIs(self.cloud.requests[-1]["store"], False)
        before = self.cloud.received
        raw = client.responses.with_raw_response.create(
            model="any", input=f"Charge my card {CARD}, please.", max_output_tokens=8
        )
        self.assertEqual(raw.headers["x-sluice-route"], "edge")
        with self.assertRaises(openai.BadRequestError):
            client.embeddings.create(model="any", input=f"The card {CARD}")
        self.assertEqual(self.cloud.received, before)

    def test_vectors_of_ordinary_texts_come_from_the_cloud(self):
        vectors = self.client_of("openai").embeddings.create(model="any", input=["One.", "Two."])
        self.assertEqual([item.embedding for item in vectors.data], [[1.0, 2.0]] * 2)


if __name__ == "__main__":
    unittest.main()
