"""An application of ASGI behind a real port, in a thread of this process."""

import threading
from contextlib import contextmanager

from transformers_arm.serving.app import Server, bound_socket


@contextmanager
def running_app(app, **options):
    """Its address, as of a URL."""
    listens, addresses = threading.Event(), []

    def listening(url):
        addresses.append(url)
        listens.set()

    server = Server(app, 1, listening, **options)
    thread = threading.Thread(target=server.run, args=[[bound_socket("127.0.0.1", 0)]], daemon=True)
    thread.start()
    assert listens.wait(60)
    try:
        yield addresses[0]
    finally:
        server.should_exit = True
        thread.join(60)
