"""A cloud that answers like OpenAI or Anthropic, by the path, and keeps every byte that reaches it.

The bytes are the evidence: a test that says "this text never left" looks in `CloudServer.received`,
which holds request line, headers and body of every connection, parsed by nobody.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = ["The ", "cloud ", "answers."]
# A model that neither kind of cloud has, and what they say then.
NO_SUCH_MODEL = "no-such-model"
NO_SUCH_MODEL_SAID = "The cloud has no such model."


class Recorder:
    """A file that copies what is read from it."""

    def __init__(self, file, sink):
        self.file, self.sink = file, sink

    def _keep(self, data):
        self.sink(data)
        return data

    def readline(self, *args):
        return self._keep(self.file.readline(*args))

    def read(self, *args):
        return self._keep(self.file.read(*args))

    def __getattr__(self, name):
        return getattr(self.file, name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.rfile = Recorder(self.rfile, self.server.keep)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.server.requests.append(body)
        self.server.paths.append(self.path)
        events, whole = EVENTS.get(self.path, (chat_events, completion))
        if body["model"] == NO_SUCH_MODEL:
            self.answer_json(404, no_such_model(self.path))
        elif self.server.failing:
            self.answer_json(500, {"error": {"message": "the cloud is on fire", "type": "server_error"}})
        elif body.get("stream"):
            self.answer_stream(events(body))
        else:
            self.answer_json(200, whole(body))

    def answer_json(self, status, document):
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_stream(self, events):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            data = event.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


class CloudServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1; use as a context manager."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.paths = []
        self.failing = False
        self._received = bytearray()
        self._lock = threading.Lock()

    def keep(self, data):
        with self._lock:
            self._received += data

    def forget(self):
        """Is as it was at first."""
        with self._lock:
            self._received.clear()
        self.requests.clear()
        self.paths.clear()
        self.failing = False

    @property
    def received(self):
        """Every byte that any client has sent so far."""
        with self._lock:
            return bytes(self._received)

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()


def no_such_model(path):
    """The error of either kind of cloud for a model that it does not have."""
    if path == "/v1/messages":
        return {"type": "error", "error": {"type": "not_found_error", "message": NO_SUCH_MODEL_SAID}}
    error = {"message": NO_SUCH_MODEL_SAID, "type": "invalid_request_error", "param": "model"}
    return {"error": error | {"code": "model_not_found"}}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def tool_input(name):
    """What a tool is called with. Some clients ask for a form as the input of a tool that they invent."""
    return TOOL_INPUT if name == "get_weather" else FORM_INPUT


def pieces_of(body):
    """What a chat completion says, in pieces; its tool call, if it makes one instead."""
    answered = body["messages"][-1]["role"] == "tool"
    functions = [tool["function"] for tool in body.get("tools") or [] if tool["type"] == "function"]
    if functions and not answered:
        name = functions[0]["name"]
        function = {"name": name, "arguments": json.dumps(tool_input(name))}
        return [], {"id": "call_cloud", "type": "function", "function": function}
    if (body.get("response_format") or {}).get("type") == "json_schema":
        text = json.dumps(FORM_INPUT)
        return [text[:7], text[7:]], None
    return ANSWER, None


def completion(body):
    pieces, call = pieces_of(body)
    message = {"role": "assistant", "content": "".join(pieces) or None}
    if call:
        message["tool_calls"] = [call]
    finish = "tool_calls" if call else "stop"
    return {
        "id": "chatcmpl-cloud",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }


def chat_events(body):
    def chunk(choices, usage=None):
        head = {"id": "chatcmpl-cloud", "object": "chat.completion.chunk", "created": 1}
        rest = {"model": body["model"], "choices": choices}
        return f"data: {json.dumps(head | rest | ({'usage': usage} if usage else {}))}\n\n"

    yield chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    pieces, call = pieces_of(body)
    deltas = [{"content": piece} for piece in pieces]
    if call:
        text = call["function"]["arguments"]
        begun = call | {"index": 0, "function": call["function"] | {"arguments": text[:5]}}
        rest = {"index": 0, "function": {"arguments": text[5:]}}
        deltas = [{"tool_calls": [begun]}, {"tool_calls": [rest]}]
    for delta in deltas:
        yield chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    yield chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield chunk([], USAGE)
    yield "data: [DONE]\n\n"


def message(body):
    """A message; a use of the first tool, if there are tools and no result of one yet."""
    last = body["messages"][-1]["content"]
    answered = isinstance(last, list) and any(block["type"] == "tool_result" for block in last)
    form = (body.get("output_config") or {}).get("format")
    text = json.dumps(FORM_INPUT) if form else "".join(ANSWER)
    content, stop = [{"type": "text", "text": text}], "end_turn"
    if body.get("tools") and not answered:
        name = body["tools"][0]["name"]
        use = {"type": "tool_use", "id": "toolu_cloud", "name": name, "input": tool_input(name)}
        content, stop = content + [use], "tool_use"
    return {
        "id": "msg_cloud",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }


def message_events(body):
    whole = message(body)

    def event(kind, **fields):
        return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n"

    yield event("message_start", message=whole | {"content": [], "stop_reason": None})
    yield event("ping")
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            pieces = ANSWER if block["text"] == "".join(ANSWER) else [block["text"]]
            begun, deltas = block | {"text": ""}, [{"type": "text_delta", "text": t} for t in pieces]
        else:
            text = json.dumps(block["input"])
            pieces = [text[:5], text[5:]]
            begun = block | {"input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        yield event("content_block_start", index=index, content_block=begun)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": 3})
    yield event("message_stop")


def text_completion(body, text="".join(ANSWER), finish="stop"):
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    head = {"id": "cmpl-cloud", "object": "text_completion", "created": 1, "model": body["model"]}
    return head | {"choices": [choice], "usage": USAGE}


def text_events(body):
    pieces = [(piece, None) for piece in ANSWER] + [("", "stop")]
    chunks = [text_completion(body, *piece) | {"usage": None} for piece in pieces]
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append(text_completion(body) | {"choices": []})
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def embeddings(body):
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    # The SDK asks for base64: two float32 numbers, 1.0 and 2.0.
    vectors = ["AACAPwAAAEA=" if body.get("encoding_format") == "base64" else [1.0, 2.0] for _ in texts]
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}


TOOL_INPUT = {"city": "Paris", "unit": "celsius"}
# What `forms.Dish` is.
FORM_INPUT = {"kind": "soup", "vegan": True}
EVENTS = {
    "/v1/messages": (message_events, message),
    "/v1/completions": (text_events, text_completion),
    "/v1/embeddings": (chat_events, embeddings),
}
