"""Every field of the official SDKs' request schemas is known to the gateway, and its text is looked at.

The schemas are those of the SDKs that are installed (`schemas.py` walks them). The gateway has no edge here, so
that a private request is refused at once and needs no model.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import http.client
import json
import unittest

import schemas
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from fake_cloud import CloudServer
from gateway import BINARY, Gateway
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_create_params
from sides import Timed

# Not the number for tests that card networks publish: near words of test code that one is let through.
CARD = "4539 5787 6362 1486"
# Bytes that no detector reads: the gateway says so to policy, and that is what keeps them here.
OPAQUE = ("data", "file_data")
# What the gateway refuses by name: it would refer to what a provider has stored, or does.
REFUSED = ("background", "container", "conversation", "include", "input[0]", "previous_response_id", "prompt", "thread")
# What the SDK takes among the fields and sends as a header.
HEADERS = {"betas"}
# A schema leaves out what the gateway needs all the same.
NEEDED = {"function_call_output": {"call_id": schemas.WORD}}
ROLES = ("user", "assistant", "system")
USER = {"role": "user", "content": schemas.WORD}


class Fields(Timed):
    """One request for each field, harmless; one more with a card in it if it holds text."""

    @classmethod
    def setUpClass(cls):
        cls.cloud = cls.enterClassContext(CloudServer())
        cls.gateway = cls.enterClassContext(Gateway(BINARY, cls.cloud.base_url, edge=False))
        cls.connection = http.client.HTTPConnection(cls.gateway.url.removeprefix("http://"))

    def ask(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        reply = self.connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, headers, json.loads(reply.read())

    def check(self, path, field, complete):
        """A message's schema has any block in any role: the field counts where it means something."""
        strange = []
        for harmless, planted in zip(complete(field.harmless), complete(field.planted or field.harmless)):
            status, headers, reply = self.ask(path, harmless)
            if stripped := headers.get("x-sluice-stripped"):
                strange.append(stripped)
                continue
            error = reply.get("error") or {}
            by_name = (error.get("param") or error.get("message") or "").startswith(REFUSED)
            self.assertTrue(status in (200, 403) or by_name, (status, reply))
            if field.planted is not None and not field.path.endswith(OPAQUE):
                status, headers, reply = self.ask(path, planted)
                self.assertTrue(by_name or "PCI" in headers["x-sluice-labels"], (status, reply))
            return
        self.fail(f"the gateway does not know {strange}")

    def check_all(self, path, dialect, complete=lambda body: [body]):
        asked = set()
        for schema in dialect:
            for field in schemas.fields(schema, CARD):
                key = (field.path, json.dumps([field.harmless, field.planted]))
                if key in asked or field.path.split("[")[0].split(".")[1] in HEADERS:
                    continue
                asked.add(key)
                with self.subTest(field=field.path, body=field.harmless):
                    self.check(path, field, complete)
        self.assertNotIn(CARD.encode(), self.cloud.received)
        return len(asked)

    def test_chat_completions(self):
        count = self.check_all("/v1/chat/completions", [chat_create_params.CompletionCreateParamsNonStreaming])
        self.assertGreater(count, 100)

    def test_completions(self):
        self.check_all("/v1/completions", [completion_create_params.CompletionCreateParamsNonStreaming])

    def test_embeddings(self):
        self.check_all("/v1/embeddings", [embedding_create_params.EmbeddingCreateParams])

    def test_responses_and_what_counts_them(self):
        def complete(body):
            body = with_needed({"model": "m", "input": schemas.WORD} | body)
            if isinstance(body["input"], list):
                body["input"] = [*body["input"], USER]
            return [body]

        dialect = [
            response_create_params.ResponseCreateParamsNonStreaming,
            input_token_count_params.InputTokenCountParams,
        ]
        self.assertGreater(self.check_all("/v1/responses", dialect, complete), 500)

    def test_messages_and_what_counts_them(self):
        def complete(body):
            body = {"max_tokens": 1} | body
            messages = body["messages"]
            roles = {message["role"]: None for message in messages} | dict.fromkeys(ROLES)
            return [body | {"messages": [*in_role(messages, role), USER]} for role in roles]

        dialect = [
            message_create_params.MessageCreateParamsNonStreaming,
            message_count_tokens_params.MessageCountTokensParams,
            beta_message_create_params.MessageCreateParamsNonStreaming,
        ]
        self.assertGreater(self.check_all("/v1/messages", dialect, complete), 500)


def with_needed(value):
    if isinstance(value, list):
        return [with_needed(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    needed = NEEDED.get(value.get("type"), {})
    return needed | {name: with_needed(inner) for name, inner in value.items()}


def in_role(messages, role):
    return [message | {"role": role} for message in messages]


if __name__ == "__main__":
    unittest.main()
