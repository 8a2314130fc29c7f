"""The official OpenAI SDK with nothing but its `base_url` changed."""

import openai


def client(gateway):
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-of-the-client", max_retries=0)
