"""An OpenAI-compatible server over any `Engine`, as an ASGI application and as a process."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import chat_routes, image_routes, status_routes
from .engine import Engine
from .errors import add_handlers
from .guard import Guard
from .limits import Limits
from .metrics import Measured, Metrics
from .streams import Served

GRACE = 30  # seconds that requests have to end, once the server is asked to


def new_app(engine: Engine, limits: Limits | None = None) -> FastAPI:
    """The application; the engine is its own from now on, and ends with it."""
    limits, metrics = limits or Limits(), Metrics(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.served = Served(engine, limits, metrics)
    for routes in (image_routes, chat_routes, status_routes):
        app.include_router(routes.router)
    add_handlers(app)
    app.add_middleware(Guard, limits=limits)
    app.add_middleware(Measured, metrics=metrics)  # outermost: it counts what the guard refuses
    return app


class Connection(H11Protocol):
    """uvicorn's, closed if no (further) request begins in time, or the last piece of an answer is not read: uvicorn
    waits for ever for the first one, for the end of the head of each, and for that.
    """

    seconds: float
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._late:
            self._late.cancel()
        self._late = self.loop.call_later(self.seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's, which tells its address once it listens.

    Args:
        grace: seconds that requests have to end, once it is asked to.
        listens: is called with the address, once requests can come.
        idle: seconds that a connection has to begin a request, and to read the end of an answer.
    """

    def __init__(
        self, app: FastAPI, grace: int, listens: Callable[[str], object], idle: float = Limits.upload_seconds
    ):
        connection = type("Connection", (Connection,), {"seconds": idle})
        options = {"http": connection, "ws": "none", "server_header": False, "log_level": "warning"}
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=grace, **options))
        self.listens = listens

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port, *_ = self.servers[0].sockets[0].getsockname()
            self.listens(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, before anything is loaded to be served there; port 0 takes any that is free.

    Raises:
        ValueError: nobody can listen there.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ValueError(f"Nobody can listen at {host}, port {port}: {error.strerror}. Take another.") from error
    return bound


def serve(engine: Engine, limits: Limits, bound: socket.socket, listens: Callable[[str], object]) -> None:
    """Answers requests at a bound socket until the process is asked to end.

    Args:
        listens: is called with the address, once requests can come.
    """
    Server(new_app(engine, limits), GRACE, listens, limits.upload_seconds).run(sockets=[bound])
