"""LiteLLM as a client, by its OpenAI and its Anthropic provider.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import json
import os
import unittest

# Its list of prices comes with it; nothing is fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
import openai  # noqa: E402
from forms import Dish  # noqa: E402
from matrix import Matrix, Said, Way  # noqa: E402
from prompts import CLIENT_KEY, WEATHER_SAID, WEATHER_SCHEMA  # noqa: E402
from sides import OnSides  # noqa: E402

litellm.suppress_debug_info = True
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": WEATHER_SAID, "parameters": WEATHER_SCHEMA},
}


class LiteLlm(Way):
    """One of LiteLLM's providers."""

    def __init__(self, provider, name):
        self.provider, self.name = provider, name

    def ask(self, gateway, messages, model="auto", **options):
        base = f"{gateway.url}/v1" if self.provider == "openai" else gateway.url
        asked = dict(max_tokens=48, temperature=0) | options
        return litellm.completion(
            model=f"{self.provider}/{model}", api_base=base, api_key=CLIENT_KEY, max_retries=0, num_retries=0,
            messages=messages, **asked,
        )

    def said(self, reply, pieces=None):
        message = reply.choices[0].message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
        tokens = (reply.usage.prompt_tokens, reply.usage.completion_tokens)
        return Said(pieces or [message.content or ""], tokens, calls, message)

    def chat(self, gateway, messages):
        return self.said(self.ask(gateway, messages))

    def stream(self, gateway, messages, **options):
        usage = {"include_usage": True}
        chunks = list(self.ask(gateway, messages, stream=True, stream_options=usage, **options))
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        return self.said(litellm.stream_chunk_builder(chunks), [piece for piece in pieces if piece])

    def call(self, gateway, question, must, stream):
        options = dict(tools=[WEATHER], max_tokens=120) | ({"tool_choice": "required"} if must else {})
        if stream:
            return self.stream(gateway, question, **options)
        return self.said(self.ask(gateway, question, **options))

    def give_back(self, gateway, question, called, result):
        given = {"role": "tool", "tool_call_id": called.turn.tool_calls[0].id, "content": result}
        return self.said(self.ask(gateway, [*question, called.turn.model_dump(), given], tools=[WEATHER]))

    def form(self, gateway, question):
        reply = self.ask(gateway, [{"role": "user", "content": question}], response_format=Dish)
        return json.loads(reply.choices[0].message.content)

    def error(self, gateway, messages, model, stream):
        try:
            reply = self.ask(gateway, messages, model=model, stream=stream)
            list(reply) if stream else None
        except openai.APIStatusError as error:
            # LiteLLM's errors are OpenAI's.
            return error.status_code, str(error)
        raise AssertionError("expected an error")


class OpenAiMatrix(Matrix, OnSides):
    """Chat completions against every side."""

    way = LiteLlm("openai", "LiteLLM, OpenAI's provider")


class AnthropicMatrix(Matrix, OnSides):
    """Messages against every side."""

    way = LiteLlm("anthropic", "LiteLLM, Anthropic's provider")


if __name__ == "__main__":
    unittest.main()
