"""The official Anthropic SDK talks to the gateway by changing only `base_url`.

Run by `.ci/run`; by hand: SLUICE_BINARY=target/release/sluice python -m unittest discover tests/clients
"""

import unittest

import anthropic
from forms import Dish
from matrix import Matrix, Said, Way
from prompts import CLIENT_KEY, ORDINARY, REGULATED, WEATHER_SAID, WEATHER_SCHEMA
from sides import CLOUDS, OnSides, side

# Settings of sampling are no longer among the arguments of the SDK.
ASKED = dict(model="auto", max_tokens=32, extra_body={"temperature": 0})
WEATHER = {
    "name": "get_weather",
    "description": WEATHER_SAID,
    "strict": True,
    "input_schema": WEATHER_SCHEMA,
}


def client(gateway):
    return anthropic.Anthropic(base_url=gateway.url, api_key=CLIENT_KEY, max_retries=0)


class Messages(Way):
    """`client.messages`."""

    name = "Anthropic for Python"

    def ask(self, gateway, messages, **options):
        return client(gateway).messages.create(messages=messages, **ASKED | options)

    def said(self, reply, pieces=None):
        text = [block.text for block in reply.content if block.type == "text"]
        calls = [(block.name, block.input) for block in reply.content if block.type == "tool_use"]
        return Said(pieces or text, (reply.usage.input_tokens, reply.usage.output_tokens), calls, reply.content)

    def chat(self, gateway, messages):
        return self.said(self.ask(gateway, messages))

    def stream(self, gateway, messages, **options):
        with client(gateway).messages.stream(messages=messages, **ASKED | options) as stream:
            pieces = list(stream.text_stream)
            reply = stream.get_final_message()
        return self.said(reply, pieces)

    def call(self, gateway, question, must, stream):
        options = dict(tools=[WEATHER], max_tokens=120)
        options |= {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}} if must else {}
        if stream:
            return self.stream(gateway, question, **options)
        reply = self.ask(gateway, question, **options)
        assert reply.stop_reason == "tool_use", reply.stop_reason
        return self.said(reply)

    def give_back(self, gateway, question, called, result):
        use = next(block for block in called.turn if block.type == "tool_use")
        given = {"type": "tool_result", "tool_use_id": use.id, "content": result}
        turns = [{"role": "assistant", "content": called.turn}, {"role": "user", "content": [given]}]
        options = dict(tools=[WEATHER], tool_choice={"type": "none"})
        return self.said(self.ask(gateway, [*question, *turns], **options))

    def form(self, gateway, question):
        messages = [{"role": "user", "content": question}]
        reply = client(gateway).messages.parse(messages=messages, output_format=Dish, **ASKED)
        return reply.parsed_output

    def error(self, gateway, messages, model, stream):
        try:
            self.ask(gateway, messages, model=model, stream=stream)
        except anthropic.APIStatusError as error:
            return error.status_code, str(error)
        raise AssertionError("expected an error")


class MessagesMatrix(Matrix, OnSides):
    """Messages against every side."""

    way = Messages()


class Edge(OnSides):
    """No cloud is configured: the embedded model answers."""

    def setUp(self):
        super().setUp()
        self.client = client(self.edge)

    def test_a_stream_ends_like_the_whole_message(self):
        whole = Messages().ask(self.edge, ORDINARY, system="Be brief.")
        self.assertEqual((whole.type, whole.role), ("message", "assistant"))
        with self.client.messages.stream(messages=ORDINARY, **ASKED, system="Be brief.") as stream:
            final = stream.get_final_message()
        self.assertEqual(final.content[0].text, whole.content[0].text)
        for name in ("input_tokens", "output_tokens"):
            self.assertEqual(getattr(final.usage, name), getattr(whole.usage, name))
        self.assertIn(whole.stop_reason, ("end_turn", "max_tokens"))
        self.assertEqual(final.stop_reason, whole.stop_reason)

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

    def test_a_refusal_of_policy_is_a_permission_error_with_a_stable_code(self):
        source = {"type": "url", "url": "https://pictures.example/1.png"}
        picture = [{"type": "image", "source": source}]
        with self.assertRaises(anthropic.PermissionDeniedError) as refused:
            self.client.messages.create(
                model="nano", messages=[{"role": "user", "content": picture}], max_tokens=4
            )
        self.assertEqual(refused.exception.body["error"]["code"], "policy_blocked")
        self.assertEqual(refused.exception.response.headers["x-sluice-route"], "refuse")


class Cloud(OnSides):
    """A cloud is configured: what may leave goes there, the rest never does."""

    def test_routes_are_told(self):
        for kind in CLOUDS:
            for messages, route in ((ORDINARY, "cloud"), (REGULATED, "edge")):
                for stream in (False, True):
                    raw = client(side(kind).gateway).messages.with_raw_response.create(
                        model="any", messages=messages, max_tokens=8, stream=stream
                    )
                    self.assertEqual(raw.headers["x-sluice-route"], route)
                    if stream:
                        self.assertTrue(list(raw.parse()))
        self.assert_no_card_left()

    def test_an_anthropic_cloud_gets_blocks_as_the_client_wrote_them(self):
        it, way, question = side("anthropic"), Messages(), [{"role": "user", "content": "Weather?"}]
        called = way.call(it.gateway, question, False, stream=True)
        way.give_back(it.gateway, question, called, "Sunny")
        sent, use = it.cloud.requests[-1]["messages"], called.turn[-1]
        self.assertEqual(sent[1]["content"][-1]["input"], use.input)
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}
        self.assertEqual(sent[2]["content"], [result])


if __name__ == "__main__":
    unittest.main()
