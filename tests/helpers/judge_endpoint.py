"""A real HTTP server on loopback that speaks /v1/chat/completions and misbehaves on purpose, and pictures to judge."""

import asyncio
import json
import random
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

GOOD = '{"objects": 8, "attributes": 6, "relations": 10}'
REWARD = 0.8
SECRET = "sk-do-not-tell"


class Endpoint(ThreadingHTTPServer):
    """Answers each request with the next of `script`: a text the judge says, or a function of the handler. `GOOD` when
    the script is over.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script = []
        self.payloads, self.headers, self.times = [], [], []
        self.in_flight = self.max_in_flight = 0
        self.lock, self.closing = threading.Lock(), threading.Event()

    def handle_error(self, request, client_address):
        pass  # clients that gave up


@contextmanager
def serving():
    """An `Endpoint` at work."""
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        endpoint = self.server
        payload = self.payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.payloads.append(payload)
            endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
            endpoint.times.append(time.monotonic())
            endpoint.in_flight += 1
            endpoint.max_in_flight = max(endpoint.max_in_flight, endpoint.in_flight)
            answer = endpoint.script.pop(0) if endpoint.script else GOOD
        try:
            assert self.path.partition("?")[0] == "/v1/chat/completions"
            answer(self) if callable(answer) else self.say(answer)
        finally:
            with endpoint.lock:
                endpoint.in_flight -= 1

    def say(self, content, usage=(1000, 20)):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        self.send(200, json.dumps({"id": "1", "choices": [choice], "usage": usage}))

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body.encode("latin-1"))  # so that a test can send what is no UTF-8

    def log_message(self, *args):
        pass


def status(code, body='{"error": {"message": "no"}}', **headers):
    def answer(handler):
        handler.send(code, body, **headers)

    answer.__name__ = str(code)  # pytest shows it
    return answer


def asked_of(payload):
    """The prompt of a request."""
    return payload["messages"][1]["content"][0]["text"].removeprefix("Request: ")


def stall(handler):
    handler.server.closing.wait(5)
    handler.close_connection = True


def picture(seed=0, size=(24, 16)):
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


def score(judge, count=1, **arguments):
    """Rewards of `count` different text-to-image pictures."""
    images = [picture(seed) for seed in range(count)]
    rows = {"prompts": ["a red cube"] * count, "images": images, "source_images": [[]] * count}
    return asyncio.run(judge(**(rows | {"task": ["text_to_image"] * count} | arguments)))
