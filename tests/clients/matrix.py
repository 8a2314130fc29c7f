"""The cells of the table in README.md: what every client does against every side.

A `Way` is one way that a client has to ask, in the client's own words. The cases are the same for all of them: a
chat, a stream, a tool that is called and whose result is answered, a reply in a form, errors. On the side of a
cloud each looks at what reached the cloud, too.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from fake_cloud import ANSWER, FORM_INPUT, NO_SUCH_MODEL, NO_SUCH_MODEL_SAID, TOOL_INPUT
from forms import Dish
from gateway import CLOUD_KEY
from prompts import CLIENT_KEY, ORDINARY, QUESTION, REGULATED, RESULT, TOO_LONG
from sides import SIDES, side

CASES = ("chat", "stream", "tools", "form", "errors")
README = Path(__file__).parent / "README.md"


@dataclass
class Said:
    """What a client heard."""

    pieces: list = field(default_factory=list)
    # Tokens of the prompt and of the reply, if the client tells them.
    tokens: tuple | None = None
    # Names and arguments of the tools that are called, and what the client gives back with a result.
    calls: list = field(default_factory=list)
    turn: object = None

    @property
    def text(self):
        return "".join(self.pieces)


class Way:
    """One way to ask. `lacks` names the cases that it has no notion of, and why."""

    name = ""
    lacks = {}
    # Whether the same question gets the same answer from the embedded model.
    is_greedy = True

    def chat(self, gateway, messages):
        raise NotImplementedError

    def stream(self, gateway, messages):
        raise NotImplementedError

    def call(self, gateway, question, must, stream):
        """Asks with the tool get_weather, which must be called or may be; streamed or not."""
        raise NotImplementedError

    def give_back(self, gateway, question, called, result):
        """Asks again with the tool's result."""
        raise NotImplementedError

    def form(self, gateway, question):
        """A reply in the form `Dish`, as the client reads it."""
        raise NotImplementedError

    def error(self, gateway, messages, model, stream):
        """The client's own error: its status and what it says."""
        raise NotImplementedError


class Matrix:
    """The tests of a way; a class has them with `way` and, for what else it inherits, `OnSides`."""

    way = None

    @classmethod
    def setUpClass(cls):
        cls.row = table()[cls.way.name]

    def on_each_side(self, case, check):
        if why := self.way.lacks.get(case):
            self.assertEqual(self.row[case], "–", f"README.md says that {self.way.name} has {case}")
            self.skipTest(why)
        self.assertEqual(self.row[case], "yes", f"README.md does not say that {self.way.name} has {case}")
        for name in SIDES:
            with self.subTest(side=name):
                check(side(name))

    def test_chat(self):
        self.on_each_side("chat", self.check_chat)

    def test_stream(self):
        self.on_each_side("stream", self.check_stream)

    def test_tools(self):
        self.on_each_side("tools", self.check_tools)

    def test_form(self):
        self.on_each_side("form", self.check_form)

    def test_errors(self):
        self.on_each_side("errors", self.check_errors)

    def check_chat(self, it):
        self.check_said(it, self.way.chat(it.gateway, ORDINARY))
        if it.is_cloud:
            self.assertIn(CLOUD_KEY.encode(), it.cloud.received)
            self.assertNotIn(CLIENT_KEY.encode(), it.cloud.received)
            self.check_card(self.way.chat(it.gateway, REGULATED))

    def check_stream(self, it):
        said = self.way.stream(it.gateway, ORDINARY)
        self.check_said(it, said)
        self.assertGreater(len(said.pieces), 1, "the reply came in one piece")
        if self.way.is_greedy and not it.is_cloud:
            self.assertEqual(said.text, self.way.chat(it.gateway, ORDINARY).text)
        if it.is_cloud:
            self.check_card(self.way.stream(it.gateway, REGULATED))

    def check_said(self, it, said):
        self.assertTrue(said.text.strip())
        if it.is_cloud:
            self.assertEqual(said.text, "".join(ANSWER))
        if said.tokens:
            self.assertTrue(said.tokens == (7, 3) if it.is_cloud else min(said.tokens) > 0, said.tokens)

    def check_card(self, said):
        """The embedded model has answered, and no cloud has seen the number."""
        self.assertTrue(said.text.strip())
        self.assertNotEqual(said.text, "".join(ANSWER))
        self.assert_no_card_left()

    def check_tools(self, it):
        # The embedded model was never trained to call tools; the cloud does it unasked.
        must = not it.is_cloud
        called = self.way.call(it.gateway, QUESTION, must, stream=False)
        streamed = self.way.call(it.gateway, QUESTION, must, stream=True)
        for said in (called, streamed):
            name, arguments = said.calls[0]
            self.assertEqual((name, set(arguments)), ("get_weather", {"city", "unit"}))
            if it.is_cloud:
                self.assertEqual(said.calls, [("get_weather", TOOL_INPUT)])
        answer = self.way.give_back(it.gateway, QUESTION, called, RESULT)
        self.assertTrue(answer.text or answer.calls)
        if it.is_cloud:
            self.assertEqual(answer.text, "".join(ANSWER))
            self.assertIn(RESULT, str(it.cloud.requests[-1]))

    def check_form(self, it):
        form = Dish.model_validate(self.way.form(it.gateway, "Which dish do you recommend?"))
        if it.is_cloud:
            self.assertEqual(form.model_dump(), FORM_INPUT)

    def check_errors(self, it):
        messages, model, expected = ORDINARY, NO_SUCH_MODEL, (404, NO_SUCH_MODEL_SAID)
        if not it.is_cloud:
            messages, model, expected = TOO_LONG_MESSAGES, "auto", (400, "context")
        for stream in (False, True):
            status, text = self.way.error(it.gateway, messages, model, stream)
            self.assertEqual(status, expected[0], text)
            self.assertIn(expected[1], text)


TOO_LONG_MESSAGES = [{"role": "user", "content": TOO_LONG}]


def table():
    """The cells of README.md: what stands under each case, by the way's name."""
    rows = re.findall(r"^\| (.+?) +\|(.+)\|$", README.read_text(), re.MULTILINE)
    cells = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    return {name: dict(zip(CASES, cell)) for name, cell in cells.items() if len(cell) == len(CASES)}
