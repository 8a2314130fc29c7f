"""LiteLLM as a client, by its OpenAI and its Anthropic provider.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import os
import unittest

# Its list of prices comes with it; nothing is fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from fake_cloud import ANSWER, FORM_INPUT, TOOL_INPUT, CloudServer
from forms import Soup
from gateway import BINARY, Gateway
from prompts import ORDINARY, REGULATED, TOO_LONG, WEATHER_SCHEMA

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER_SCHEMA},
}
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}


def ask(gateway, provider, messages, **options):
    base = f"{gateway.url}/v1" if provider == "openai" else gateway.url
    return litellm.completion(
        model=f"{provider}/auto", api_base=base, api_key="sk-of-the-client", max_retries=0,
        num_retries=0, messages=messages, **{"max_tokens": 48} | options,
    )


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


PROVIDERS = ("openai", "anthropic")
litellm.suppress_debug_info = True


class Edge(unittest.TestCase):
    """No cloud is configured: the embedded model answers."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(BINARY))

    def test_answers_and_streams(self):
        for provider in PROVIDERS:
            whole = ask(self.gateway, provider, ORDINARY)
            self.assertTrue(whole.choices[0].message.content.strip())
            self.assertGreater(whole.usage.completion_tokens, 0)
            self.assertTrue(text_of(ask(self.gateway, provider, ORDINARY, stream=True)).strip())

    def test_a_tool_is_called(self):
        for provider in PROVIDERS:
            asked = dict(tools=[WEATHER], tool_choice="required", max_tokens=120)
            reply = ask(self.gateway, provider, [QUESTION], **asked)
            call = reply.choices[0].message.tool_calls[0]
            self.assertIn(json.loads(call.function.arguments)["unit"], ("celsius", "fahrenheit"))

    def test_a_reply_keeps_its_schema(self):
        reply = ask(self.gateway, "openai", ORDINARY, response_format=Soup)
        Soup.model_validate_json(reply.choices[0].message.content)

    def test_errors_are_its_own(self):
        for provider in PROVIDERS:
            with self.assertRaises(litellm.BadRequestError):
                ask(self.gateway, provider, [{"role": "user", "content": TOO_LONG}])


class Hybrid(unittest.TestCase):
    """One cloud is configured: what may leave goes there, the rest never does."""

    @classmethod
    def setUpClass(cls):
        cls.cloud = cls.enterClassContext(CloudServer())
        cls.gateway = cls.enterClassContext(Gateway(BINARY, cls.cloud.base_url))

    def test_the_cloud_answers_whole_and_streamed(self):
        for provider in PROVIDERS:
            whole = ask(self.gateway, provider, ORDINARY)
            self.assertEqual(whole.choices[0].message.content, "".join(ANSWER))
            self.assertEqual(
                text_of(ask(self.gateway, provider, ORDINARY, stream=True)), "".join(ANSWER)
            )

    def test_the_cloud_calls_a_tool_and_gets_its_result(self):
        for provider in PROVIDERS:
            called = ask(self.gateway, provider, [QUESTION], tools=[WEATHER]).choices[0].message
            call = called.tool_calls[0]
            self.assertEqual(json.loads(call.function.arguments), TOOL_INPUT)
            result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
            messages = [QUESTION, called.model_dump(), result]
            answer = ask(self.gateway, provider, messages, tools=[WEATHER])
            self.assertEqual(answer.choices[0].message.content, "".join(ANSWER))

    def test_the_cloud_keeps_a_schema(self):
        reply = ask(self.gateway, "openai", ORDINARY, response_format=Soup)
        self.assertEqual(json.loads(reply.choices[0].message.content), FORM_INPUT)

    def test_a_card_number_never_leaves(self):
        for provider in PROVIDERS:
            self.assertTrue(ask(self.gateway, provider, REGULATED).choices[0].message.content)
            self.assertTrue(list(ask(self.gateway, provider, REGULATED, stream=True)))
        self.assertNotIn(b"4111", self.cloud.received)


if __name__ == "__main__":
    unittest.main()
