"""The official OpenAI SDK with nothing but its `base_url` changed."""

import openai
from prompts import CLIENT_KEY


def client(gateway):
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=CLIENT_KEY, max_retries=0)


def refused(ask):
    """Status and text of the SDK's error."""
    try:
        ask()
    except openai.APIStatusError as error:
        return error.status_code, str(error)
    raise AssertionError("expected an error")
