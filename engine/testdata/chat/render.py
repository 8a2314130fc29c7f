"""Writes rendered.json: what transformers makes of the templates beside it, for several conversations.

The templates were written by hand and use what the templates of Qwen3 (thinking), Qwen3-Coder (coder) and Qwen3.5
(hybrid) use; python.jinja has what only Python's Jinja knows. Run with
`pip install transformers==5.24.0 jinja2==3.1.6`, then `python render.py`; the result is the same every time.
"""

import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

TOOLS = [
    {
        "name": "get_weather",
        "description": " Weather of a city, é & \"more\" <b> ",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name "},
                "days": {"type": ["integer", "null"], "minimum": 1, "default": None},
                "detailed": {"type": "boolean", "default": False},
                "tags": {"type": "array", "items": {"type": "string"}, "examples": [["a", "b"]]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    {"name": "clock", "description": None, "parameters": None},
]
CALL = {
    "city": "Köln",
    "days": None,
    "detailed": True,
    "quick": False,
    "tags": ["a", 1, None, True, 2.5, "it's"],
    "deep": {"k": [True, None], "x": 1.0},
    "ratio": 0.5,
    "whole": 3.0,
    "count": -7,
    "text": "two\nlines",
}


def call(name, arguments):
    return {"id": "c1", "name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM = say("system", "Be brief.\n")
ASK = say("user", "What is the weather in Köln?")
CALLED = say("assistant", "", reasoning="\nI should look.\n", tool_calls=[call("get_weather", CALL)])
TWICE = say("assistant", "Looking.", tool_calls=[call("get_weather", {"city": "a"}), call("clock", {})])
RESULT = say("tool", '{"sky": "clear"}', tool_call_id="c1")
CONVERSATIONS = {
    "a question": {"messages": [ASK]},
    "a system message": {"messages": [SYSTEM, ASK], "thinking": False},
    "tools": {"messages": [ASK], "tools": TOOLS},
    "tools and a system message": {"messages": [SYSTEM, ASK], "tools": TOOLS, "thinking": True},
    "a call and its result": {"messages": [ASK, CALLED, RESULT], "tools": TOOLS},
    "two calls, two results": {
        "messages": [SYSTEM, ASK, TWICE, RESULT, RESULT, say("assistant", "Clear."), say("user", "And now?")],
        "tools": TOOLS,
    },
    "thoughts of earlier turns": {
        "messages": [
            ASK,
            say("assistant", "Clear.", reasoning="Easy."),
            say("user", "Why?  "),
            CALLED,
            RESULT,
            say("assistant", "Because.", reasoning="Hm."),
        ],
    },
}


def function(tool):
    """A tool as the engine gives it to templates: what is not said is left out."""
    out = {"name": tool["name"]}
    if tool["description"] is not None:
        out["description"] = tool["description"]
    out["parameters"] = tool["parameters"] or {"type": "object", "properties": {}}
    return {"type": "function", "function": out}


def message(said):
    out = {"role": said["role"], "content": said["content"]}
    for ours, theirs in [("reasoning", "reasoning_content"), ("tool_call_id", "tool_call_id")]:
        if ours in said:
            out[theirs] = said[ours]
    calls = [
        {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.loads(c["arguments"])}}
        for c in said.get("tool_calls", [])
    ]
    if calls:
        out["tool_calls"] = calls
    return out


def main():
    here = pathlib.Path(__file__).parent
    cases = []
    for template in ["thinking", "coder", "hybrid", "python"]:
        compiled = _compile_jinja_template((here / f"{template}.jinja").read_text())
        for name, conversation in CONVERSATIONS.items():
            inputs = {
                "messages": [message(m) for m in conversation["messages"]],
                "add_generation_prompt": True,
                "bos_token": "<|im_start|>",
                "eos_token": "<|im_end|>",
            }
            if "tools" in conversation:
                inputs["tools"] = [function(t) for t in conversation["tools"]]
            if "thinking" in conversation:
                inputs["enable_thinking"] = conversation["thinking"]
            rendered = compiled.render(**inputs)
            cases.append({"template": template, "name": name, "conversation": conversation, "rendered": rendered})
    (here / "rendered.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
