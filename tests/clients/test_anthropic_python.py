"""The official Anthropic SDK talks to the gateway by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import unittest

import anthropic
from fake_cloud import ANSWER, TOOL_INPUT, CloudServer
from gateway import BINARY, Gateway
from prompts import ORDINARY, REGULATED, WEATHER_SCHEMA

# Settings of sampling are no longer among the arguments of the SDK.
GREEDY = {"temperature": 0}
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "strict": True,
    "input_schema": WEATHER_SCHEMA,
}


def client(gateway):
    return anthropic.Anthropic(base_url=gateway.url, api_key="sk-of-the-client", max_retries=0)


class Edge(unittest.TestCase):
    """No cloud is configured: the embedded model answers."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(BINARY))
        cls.client = client(cls.gateway)

    def test_answers_and_streams_the_same_text(self):
        asked = dict(model="nano", messages=ORDINARY, max_tokens=32, extra_body=GREEDY)
        whole = self.client.messages.create(**asked, system="Be brief.")
        self.assertEqual((whole.type, whole.role), ("message", "assistant"))
        self.assertTrue(whole.content[0].text.strip())
        self.assertIn(whole.stop_reason, ("end_turn", "max_tokens"))
        with self.client.messages.stream(**asked, system="Be brief.") as stream:
            pieces = list(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual("".join(pieces), whole.content[0].text)
        self.assertGreater(len(pieces), 1, "the reply came in one piece")
        self.assertEqual(final.content[0].text, whole.content[0].text)
        for name in ("input_tokens", "output_tokens"):
            self.assertEqual(getattr(final.usage, name), getattr(whole.usage, name))
        self.assertEqual(final.stop_reason, whole.stop_reason)

    def test_a_tool_is_used_and_its_result_is_answered(self):
        messages = [{"role": "user", "content": "What is the weather in Paris?"}]
        choice = {"type": "any", "disable_parallel_tool_use": True}
        asked = dict(model="nano", tools=[WEATHER], tool_choice=choice, max_tokens=120, extra_body=GREEDY)
        reply = self.client.messages.create(messages=messages, **asked)
        self.assertEqual(reply.stop_reason, "tool_use")
        use = next(block for block in reply.content if block.type == "tool_use")
        self.assertEqual(use.name, "get_weather")
        self.assertIn(use.input["unit"], ("celsius", "fahrenheit"))
        with self.client.messages.stream(messages=messages, **asked) as stream:
            streamed = stream.get_final_message()
        inputs = [block.input for block in streamed.content if block.type == "tool_use"]
        self.assertEqual(inputs, [use.input])
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny, 21 degrees"}
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
        answer = self.client.messages.create(
            model="nano", messages=messages, tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=24
        )
        self.assertTrue(answer.content[0].text)

    def test_a_reply_keeps_to_a_schema(self):
        schema = {
            "type": "object",
            "properties": {"minutes": {"type": "integer", "minimum": 1, "maximum": 600}},
            "required": ["minutes"],
            "additionalProperties": False,
        }
        reply = self.client.messages.create(
            model="nano",
            messages=[{"role": "user", "content": "How long does a soup take?"}],
            max_tokens=60,
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
        self.assertTrue(1 <= json.loads(reply.content[0].text)["minutes"] <= 600)

    def test_counts_tokens_as_the_reply_does(self):
        counted = self.client.messages.count_tokens(model="nano", messages=ORDINARY)
        reply = self.client.messages.create(model="nano", messages=ORDINARY, max_tokens=2)
        self.assertEqual(counted.input_tokens, reply.usage.input_tokens)

    def test_lists_models(self):
        models = list(self.client.models.list())
        self.assertTrue(models)
        self.assertEqual(self.client.models.retrieve(models[0].id).id, models[0].id)

    def test_wrong_requests_raise_the_errors_of_the_sdk(self):
        with self.assertRaises(anthropic.BadRequestError) as refused:
            self.client.messages.create(model="nano", messages="not a list", max_tokens=4)
        self.assertEqual(refused.exception.body["error"]["type"], "invalid_request_error")
        self.assertTrue(refused.exception.request_id)
        with self.assertRaises(anthropic.NotFoundError):
            self.client.models.retrieve("nothing")
        with self.assertRaises(anthropic.BadRequestError):
            self.client.messages.create(
                model="nano", messages=[{"role": "user", "content": "word " * 20_000}], max_tokens=4
            )

    def test_a_refusal_of_policy_is_a_permission_error_with_a_stable_code(self):
        source = {"type": "url", "url": "https://pictures.example/1.png"}
        picture = [{"type": "image", "source": source}]
        with self.assertRaises(anthropic.PermissionDeniedError) as refused:
            self.client.messages.create(
                model="nano", messages=[{"role": "user", "content": picture}], max_tokens=4
            )
        self.assertEqual(refused.exception.body["error"]["code"], "policy_blocked")
        self.assertEqual(refused.exception.response.headers["x-sluice-route"], "refuse")


class Cloud:
    """One cloud is configured: what may leave goes there, the rest never does."""

    def setUp(self):
        self.cloud = self.enterContext(CloudServer())
        self.gateway = self.enterContext(Gateway(BINARY, self.cloud.base_url, kind=self.kind))
        self.client = client(self.gateway)

    def ask(self, messages, **options):
        return self.client.messages.with_raw_response.create(
            model="any", messages=messages, max_tokens=8, **options
        )

    def test_an_ordinary_prompt_is_answered_by_the_cloud(self):
        raw = self.ask(ORDINARY)
        self.assertEqual(raw.headers["x-sluice-route"], "cloud")
        reply = raw.parse()
        self.assertEqual(reply.content[0].text, "".join(ANSWER))
        self.assertEqual((reply.usage.input_tokens, reply.usage.output_tokens), (7, 3))
        with self.client.messages.stream(model="any", messages=ORDINARY, max_tokens=8) as stream:
            self.assertEqual(list(stream.text_stream), ANSWER)
            usage = stream.get_final_message().usage
        self.assertEqual((usage.input_tokens, usage.output_tokens), (7, 3))

    def test_a_card_number_never_leaves(self):
        for stream in (False, True):
            raw = self.ask(REGULATED, stream=stream)
            self.assertEqual(raw.headers["x-sluice-route"], "edge")
            if stream:
                self.assertTrue(list(raw.parse()))
        self.assertEqual(self.cloud.received, b"")

    def test_the_key_of_the_client_stays_and_the_key_of_the_gateway_goes(self):
        self.ask(ORDINARY)
        self.assertIn(b"sk-of-the-gateway", self.cloud.received)
        self.assertNotIn(b"sk-of-the-client", self.cloud.received)


class OpenAiCloud(Cloud, unittest.TestCase):
    """The cloud speaks OpenAI's chat completions."""

    kind = "openai"


class AnthropicCloud(Cloud, unittest.TestCase):
    """The cloud speaks Anthropic's messages."""

    kind = "anthropic"

    def test_a_tool_is_used_by_the_cloud_and_its_result_goes_there(self):
        messages = [{"role": "user", "content": "What is the weather in Paris?"}]
        asked = dict(model="any", tools=[WEATHER], max_tokens=50)
        with self.client.messages.stream(messages=messages, **asked) as stream:
            reply = stream.get_final_message()
        use = reply.content[-1]
        self.assertEqual((use.type, use.name, use.input), ("tool_use", "get_weather", TOOL_INPUT))
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
        answer = self.client.messages.create(messages=messages, **asked)
        self.assertEqual(answer.content[0].text, "".join(ANSWER))
        sent = self.cloud.requests[-1]["messages"]
        self.assertEqual(sent[1]["content"][-1]["input"], TOOL_INPUT)
        self.assertEqual(sent[2]["content"], [result])


if __name__ == "__main__":
    unittest.main()
