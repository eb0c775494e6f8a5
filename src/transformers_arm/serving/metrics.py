"""What a server counts, for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .engine import Engine, Event, Finished, Picture

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LEFT = "499"  # the status of a request whose client left, as nginx calls it


class Metrics:
    """Counters of one server, and gauges of its engine."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        named = {"namespace": "transformers_arm", "registry": self.registry}
        self.requests = Counter("requests", "Requests that are over.", ["route", "status"], **named)
        self.seconds = Histogram("request_seconds", "How long they took.", ["route"], buckets=SECONDS, **named)
        self.pictures = Counter("pictures", "Pictures that were drawn.", **named)
        self.tokens = Counter("tokens", "Tokens of requests that were answered.", ["direction", "kind"], **named)
        for name, what in (("waiting", "that wait"), ("running", "that are being made")):
            gauge = Gauge(name, f"Pictures and answers {what}.", **named)
            gauge.set_function(lambda name=name: getattr(engine.load, name))

    def count(self, event: Event) -> None:
        if isinstance(event, Picture):
            self.pictures.inc()
        elif isinstance(event, Finished):
            for direction, kind in (("input", "text"), ("input", "images"), ("output", "text"), ("output", "images")):
                self.tokens.labels(direction, kind).inc(getattr(event.usage, f"{direction}_{kind}"))


class Measured:
    """A middleware of ASGI that counts requests, by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
