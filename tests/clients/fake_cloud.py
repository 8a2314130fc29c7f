"""A cloud that answers like OpenAI's chat completions and keeps every byte that reaches it.

The bytes are the evidence: a test that says "this text never left" looks in `CloudServer.received`,
which holds request line, headers and body of every connection, parsed by nobody.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = ["The ", "cloud ", "answers."]


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
        if self.server.failing:
            self.answer_json(500, {"error": {"message": "the cloud is on fire", "type": "server_error"}})
        elif body.get("stream"):
            self.answer_stream(body)
        else:
            self.answer_json(200, completion(body))

    def answer_json(self, status, document):
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_stream(self, body):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events(body):
            data = f"data: {event}\n\n".encode()
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
        self.failing = False
        self._received = bytearray()
        self._lock = threading.Lock()

    def keep(self, data):
        with self._lock:
            self._received += data

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


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def completion(body):
    message = {"role": "assistant", "content": "".join(ANSWER)}
    return {
        "id": "chatcmpl-cloud",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def events(body):
    def chunk(choices, usage=None):
        head = {"id": "chatcmpl-cloud", "object": "chat.completion.chunk", "created": 1}
        rest = {"model": body["model"], "choices": choices}
        return json.dumps(head | rest | ({"usage": usage} if usage else {}))

    yield chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for piece in ANSWER:
        yield chunk([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
    yield chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield chunk([], USAGE)
    yield "[DONE]"
