"""An OpenAI-compatible endpoint, asked without a word about its credentials, in the strictest form it can answer in.

Knows nothing about what is asked, nor about asking again.
"""

import asyncio
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from huggingface_hub import ChatCompletionOutput, get_async_session

from ..fetching_arm import httpx
from .credentials import Address, without_credentials
from .event_loops import PerLoop

logger = logging.getLogger(__name__)

_FORMS = ("json_schema", "json_object", None)  # types of `response_format`, strictest first; None sends none
_REFUSED_STATUS = (400, 422, 501)
_ABOUT_FORM = re.compile(
    r"response.?format|json.?(schema|object|mode)|structured.?output|grammar|guided", re.IGNORECASE
)
_NO_KEY = "EMPTY"  # what local servers' users write
_MAX_RESPONSE = 2**22  # bytes
_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


def _format_field(form: str | None, schema: Mapping) -> dict:
    """The field of a request that asks for this form of answer."""
    if form is None:
        return {}
    of_schema = {"json_schema": {"name": "scores", "strict": True, "schema": schema}} if form == "json_schema" else {}
    return {"response_format": {"type": form, **of_schema}}


class _ShownURL(httpx.URL):
    """The URL of a request as logs and errors may show it. It is sent whole."""

    def __str__(self) -> str:
        return without_credentials(super().__str__())

    __repr__ = __str__


async def _show_less(request) -> None:
    request.url = _ShownURL(request.url)  # before httpx logs it


@dataclass
class _OnLoop:
    """What an endpoint has on one event loop."""

    client: httpx.AsyncClient | None = None
    users: int = 0
    first_answer: asyncio.Event | None = None


def _route(base_url: str) -> str:
    """The route that is asked: /v1/chat/completions, of which an address may state any beginning."""
    base_url = base_url.rstrip("/")
    if base_url.endswith("/chat/completions"):
        return base_url
    return f"{base_url}/chat/completions" if base_url.endswith("/v1") else f"{base_url}/v1/chat/completions"


class Endpoint:
    """A model behind an OpenAI-compatible address, asked from any number of event loops.

    It asks for JSON of a schema (`response_format`); once the server refuses that, for any JSON object; at last for
    nothing. What the server takes is found out by one request, while others wait, and remembered.

    Args:
        model: its name there.
        base_url: as in "http://localhost:8000/v1". A user and password in it authenticate by the Basic scheme.
        api_key: by default the environment's OPENAI_API_KEY. A Hugging Face token is never sent unless passed here.
        sampling: fields of each request; a `response_format` among them is sent as it is.

    Attributes:
        shown: the address without credentials.
        requests: how many were sent.

    Raises:
        ValueError: an address that is none, a key that no header can carry, a key beside a user and password.
    """

    def __init__(self, model: str, base_url: str, api_key: str | None, sampling: Mapping):
        self.model, self.sampling = model, sampling
        self._address = Address(base_url, "base_url")
        self.shown, self._route = self._address.bare, _route(self._address.bare)
        try:
            httpx.URL(self.shown)
        except httpx.InvalidURL as error:
            raise ValueError(
                f"base_url is {self.shown!r}: {error}; give one such as http://localhost:8000/v1."
            ) from error
        if api_key and self._address.user is not None:
            raise ValueError(
                f"Both api_key and a user in base_url ({self.shown}) are given, and one header is to carry them; "
                "leave one out."
            )
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY
        if not (self._api_key.isascii() and self._api_key.isprintable()):
            raise ValueError(
                "The api_key (or OPENAI_API_KEY) has a line break or another character that no header can carry; pass "
                "the key alone."
            )
        self._secrets = self._address.secrets | {self._api_key} - {_NO_KEY}
        self.requests = 0
        self._form = 0
        self._is_known = "response_format" in sampling  # what the server takes, or there is nothing to find out
        self._lock = threading.Lock()
        self._loops = PerLoop(_OnLoop)

    def without_credentials(self, text: str) -> str:
        return without_credentials(text, self._secrets)

    def _new_client(self) -> httpx.AsyncClient:
        client = get_async_session()  # the Hub's, with its users' proxies and certificates
        # Without the Hub's hooks: under HF_HUB_OFFLINE=1 they would forbid a judge on one's own machine as well.
        client.event_hooks = {"request": [_show_less]}
        client.params = client.params.merge(self._address.query)
        if self._address.user is not None:
            client.auth = self._address.user
        else:
            client.headers["authorization"] = f"Bearer {self._api_key}"
        return client

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """What `ask` takes; one for all who ask at a time on this loop, closed by the last of them."""
        here = self._loops.here()
        here.client = here.client or self._new_client()
        here.users += 1
        try:
            yield here.client
        finally:
            here.users -= 1
            if not here.users:
                unused, here.client = here.client, None
                await unused.aclose()

    async def ready(self) -> None:
        """Returns when `ask` may be called: at once, or after the first answer to another on this loop."""
        here = self._loops.here()
        if self._is_known:
            return
        if here.first_answer is None:
            here.first_answer = asyncio.Event()
        else:
            await here.first_answer.wait()

    async def ask(
        self, client: httpx.AsyncClient, messages: list[dict], schema: Mapping, limit: float
    ) -> ChatCompletionOutput:
        """One answer, within `limit` seconds a request.

        Raises:
            asyncio.TimeoutError, HTTPStatusError, HTTPError, ValueError: what comes of it. Their texts may hold
                credentials; see `without_credentials`.
        """
        try:
            while True:
                form = self._form
                body = {"model": self.model, "messages": messages, "stream": False}
                body |= {**_format_field(_FORMS[form], schema), **self.sampling}
                with self._lock:
                    self.requests += 1
                # Not the client's own timeout: that one starts anew with every byte.
                response = await asyncio.wait_for(self._post(client, body), limit)
                if not self._steps_down(response, form):
                    response.raise_for_status()
                    self._is_known = True
                    return ChatCompletionOutput.parse_obj_as_instance(response.content)
        finally:
            if (event := self._loops.here().first_answer) is not None:
                event.set()

    async def _post(self, client: httpx.AsyncClient, body: dict) -> httpx.Response:
        """A response, of no more bytes than any answer has."""
        async with client.stream("POST", self._route, json=body) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MAX_RESPONSE:
                    raise ValueError(f"The response has more than {_MAX_RESPONSE:,} bytes; no answer has")
        headers = [(name, value) for name, value in response.headers.items() if name not in _OF_TRANSFER]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=response.request)

    def _steps_down(self, response: httpx.Response, form: int) -> bool:
        """Whether a response refuses this form of answer; then a weaker one is asked for from now on."""
        if response.status_code not in _REFUSED_STATUS or form + 1 == len(_FORMS):
            return False
        if "response_format" in self.sampling or not _ABOUT_FORM.search(response.text):
            return False
        with self._lock:
            if self._form == form:
                self._form += 1
                weaker = _FORMS[form + 1] or "none"
                logger.info("%s refuses response_format %s; %s from now on.", self.shown, _FORMS[form], weaker)
        return True
