"""An application of ASGI behind a real port, in a thread of this process."""

import threading
from contextlib import contextmanager

import uvicorn

from transformers_arm.serving.app import Server


@contextmanager
def running_app(app):
    """Its address, as of a URL."""
    listens, addresses = threading.Event(), []

    def listening(url):
        addresses.append(url)
        listens.set()

    server = Server(uvicorn.Config(app, port=0, log_level="critical"), listening)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert listens.wait(60)
    try:
        yield addresses[0]
    finally:
        server.should_exit = True
        thread.join(60)
