"""LangChain's OpenAI and Anthropic integrations talk to the gateway by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import unittest

import anthropic
import openai
from fake_cloud import ANSWER, FORM_INPUT, TOOL_INPUT, CloudServer
from forms import Dish, Soup
from gateway import BINARY, Gateway
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from prompts import ORDINARY, REGULATED, TOO_LONG


@tool
def get_weather(city: str, unit: str) -> str:
    """Weather of a city."""
    return f"Sunny in {city}, 21 degrees {unit}"


def models(gateway, max_tokens=48):
    """Each way that LangChain has to ask: chat completions, responses, messages."""
    common = dict(model="auto", api_key="sk-of-the-client", max_retries=0, max_tokens=max_tokens)
    for responses in (False, True):
        yield ChatOpenAI(
            base_url=f"{gateway.url}/v1", use_responses_api=responses, temperature=0, **common
        )
    yield ChatAnthropic(base_url=gateway.url, **common)


class Edge(unittest.TestCase):
    """No cloud is configured: the embedded model answers."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway(BINARY))

    def test_answers_and_streams(self):
        for model in models(self.gateway):
            whole = model.invoke(ORDINARY)
            pieces = list(model.stream(ORDINARY))
            self.assertTrue(whole.text.strip())
            self.assertGreater(len(pieces), 1, "the reply came in one piece")
            self.assertTrue("".join(piece.text for piece in pieces).strip())
            self.assertGreater(whole.usage_metadata["output_tokens"], 0)

    def test_a_tool_is_called_and_its_result_is_answered(self):
        for model in models(self.gateway, max_tokens=120):
            asked = [HumanMessage("What is the weather in Paris?")]
            called = model.bind_tools([get_weather], tool_choice="any").invoke(asked)
            self.assertEqual(called.tool_calls[0]["name"], "get_weather")
            call = called.tool_calls[0]
            result = ToolMessage("Sunny, 21 degrees", tool_call_id=call["id"])
            answer = model.invoke([*asked, called, result])
            self.assertTrue(answer.text or answer.tool_calls)

    def test_a_reply_is_parsed_into_a_pydantic_model(self):
        for model in models(self.gateway, max_tokens=60):
            dish = model.with_structured_output(Dish, method="json_schema").invoke("Which dish?")
            self.assertIsInstance(dish, Dish)

    def test_a_prompt_beyond_the_context_is_a_clear_error(self):
        for model in models(self.gateway):
            with self.assertRaises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
                model.invoke(TOO_LONG)
            self.assertIn("context", str(refused.exception))


class Hybrid(unittest.TestCase):
    """One cloud is configured: what may leave goes there, the rest never does."""

    @classmethod
    def setUpClass(cls):
        cls.cloud = cls.enterClassContext(CloudServer())
        cls.gateways = [
            cls.enterClassContext(Gateway(BINARY, cls.cloud.base_url, kind=kind))
            for kind in ("openai", "anthropic")
        ]

    def each(self):
        return [model for gateway in self.gateways for model in models(gateway)]

    def test_an_ordinary_prompt_is_answered_by_the_cloud_whole_and_streamed(self):
        for model in self.each():
            self.assertEqual(model.invoke(ORDINARY).text, "".join(ANSWER))
            streamed = "".join(piece.text for piece in model.stream(ORDINARY))
            self.assertEqual(streamed, "".join(ANSWER))

    def test_the_cloud_calls_a_tool_and_gets_its_result(self):
        for model in self.each():
            asked = [HumanMessage("What is the weather in Paris?")]
            with_tools = model.bind_tools([get_weather])
            called = with_tools.invoke(asked)
            self.assertEqual(called.tool_calls[0]["args"], TOOL_INPUT)
            result = get_weather.invoke(called.tool_calls[0])
            answer = with_tools.invoke([*asked, called, result])
            self.assertEqual(answer.text, "".join(ANSWER))
            self.assertIn("Sunny in Paris", str(self.cloud.requests[-1]))

    def test_the_cloud_keeps_a_schema(self):
        for model in self.each():
            soup = model.with_structured_output(Soup, method="json_schema").invoke("How long?")
            self.assertEqual(soup.minutes, FORM_INPUT["minutes"])

    def test_a_card_number_never_leaves(self):
        for model in self.each():
            self.assertTrue(model.invoke(REGULATED).text.strip())
            self.assertTrue(list(model.stream(REGULATED)))
        self.assertNotIn(b"4111", self.cloud.received)


if __name__ == "__main__":
    unittest.main()
