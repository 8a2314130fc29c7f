"""LangChain's OpenAI and Anthropic integrations talk to the gateway by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import unittest

import anthropic
import openai
from forms import Dish
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from matrix import Matrix, Said, Way
from prompts import CLIENT_KEY, WEATHER_SAID, WEATHER_SCHEMA
from sides import OnSides

# A schema that a function's signature gives would allow any other argument, too.
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": WEATHER_SAID, "parameters": WEATHER_SCHEMA},
}


class LangChain(Way):
    """One of LangChain's models."""

    def model(self, gateway, **options):
        raise NotImplementedError

    def said(self, reply, pieces=None):
        usage = reply.usage_metadata
        calls = [(call["name"], call["args"]) for call in reply.tool_calls]
        return Said(pieces or [reply.text], (usage["input_tokens"], usage["output_tokens"]), calls, reply)

    def streamed(self, model, messages):
        pieces = list(model.stream(messages))
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        return self.said(whole, [piece.text for piece in pieces if piece.text])

    def chat(self, gateway, messages):
        return self.said(self.model(gateway).invoke(messages))

    def stream(self, gateway, messages):
        return self.streamed(self.model(gateway), messages)

    def call(self, gateway, question, must, stream):
        options = {"tool_choice": "any"} if must else {}
        model = self.model(gateway, max_tokens=120).bind_tools([WEATHER], **options)
        return self.streamed(model, question) if stream else self.said(model.invoke(question))

    def give_back(self, gateway, question, called, result):
        given = ToolMessage(result, tool_call_id=called.turn.tool_calls[0]["id"])
        model = self.model(gateway).bind_tools([WEATHER])
        return self.said(model.invoke([*question, called.turn, given]))

    def form(self, gateway, question):
        return self.model(gateway).with_structured_output(Dish, method="json_schema").invoke(question)

    def error(self, gateway, messages, model, stream):
        asked = self.model(gateway, model=model)
        try:
            list(asked.stream(messages)) if stream else asked.invoke(messages)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            return error.status_code, str(error)
        raise AssertionError("expected an error")


ASKED = dict(model="auto", api_key=CLIENT_KEY, max_retries=0, max_tokens=48)


class OpenAi(LangChain):
    """Chat completions, or responses."""

    def __init__(self, responses):
        self.responses = responses
        self.name = f"LangChain, OpenAI's {'responses' if responses else 'chat completions'}"

    def model(self, gateway, **options):
        return ChatOpenAI(
            base_url=f"{gateway.url}/v1", use_responses_api=self.responses, temperature=0, stream_usage=True,
            **ASKED | options,
        )


class Anthropic(LangChain):
    """Messages. It passes on no settings of sampling."""

    name = "LangChain, Anthropic's messages"
    is_greedy = False

    def model(self, gateway, **options):
        return ChatAnthropic(base_url=gateway.url, **ASKED | options)


class ChatCompletionsMatrix(Matrix, OnSides):
    """Chat completions against every side."""

    way = OpenAi(responses=False)


class ResponsesMatrix(Matrix, OnSides):
    """Responses against every side."""

    way = OpenAi(responses=True)


class MessagesMatrix(Matrix, OnSides):
    """Messages against every side."""

    way = Anthropic()


if __name__ == "__main__":
    unittest.main()
