"""Errors in OpenAI's shape, whatever went wrong: `{"error": {"message", "type", "param", "code"}}`.

They tell whoever asked what to change, and nothing of the machine.
"""

import json
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .engine import Busy, Closed, EngineError, InvalidRequest

NO_RETRY = {"x-should-retry": "false"}  # what OpenAI's clients ask before they try again by themselves
LONGEST_VALUE = 60  # characters, that a message quotes
PARAMETERS = {"count": "n", "sampling": None}  # of the engine's, what requests call otherwise
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
NO_OBJECT = ("model_type", "model_attributes_type", "dict_type")  # pydantic's, of what is no JSON object


def shortened(text: str | None) -> str | None:
    """A name of a request's, which may be as long as the request."""
    return text if text is None or len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


class ApiError(Exception):
    """What a client gets in place of an answer.

    Args:
        status: of HTTP.
        message: for people: the value, the bound, the fix.
        parameter: the field of the request.
        code: for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.parameter, self.code, self.headers = status, shortened(parameter), code, headers

    @property
    def body(self) -> dict:
        kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        kind = "server_error" if self.status >= 500 else kind
        told = {"message": str(self), "type": kind, "param": self.parameter, "code": self.code}
        # A request may hold what UTF-8 may not.
        return {"error": {name: text and text.encode("utf-8", "replace").decode() for name, text in told.items()}}

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def of_engine(error: EngineError) -> ApiError:
    """What a client is told of an engine's error."""
    if isinstance(error, InvalidRequest):
        parameter = PARAMETERS.get(error.parameter, error.parameter)
        return ApiError(400, str(error), parameter=parameter, code="invalid_value")
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, Closed):
        return ApiError(503, str(error), code="shutting_down")
    return ApiError(500, str(error), code="model_failed", headers=NO_RETRY)


def unexpected() -> ApiError:
    """What a client is told of what nobody expected; the log has to say what it was."""
    return ApiError(500, "Something went wrong here; the server's log says what.", headers=NO_RETRY)


def of_validation(errors: Sequence[dict]) -> ApiError:
    """What a client is told of pydantic's errors: the first of them, in words of JSON."""
    first = errors[0]
    kind, parameter, value = first["type"], ".".join(map(str, first["loc"])) or None, first.get("input")
    name = shortened(parameter) or "The body"
    if kind == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first['ctx']['error']}.", code="invalid_json")
    if kind == "extra_forbidden":
        message = f"{name} is no field of this request; leave it out."
        return ApiError(400, message, parameter=parameter, code="unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"{name} is missing.", parameter=parameter, code="missing_required_parameter")
    said = first["msg"].removeprefix("Value error, ")
    if kind in NO_OBJECT:
        said = "it must be a JSON object."
    elif kind == "literal_error":
        said = f"it must be {first['ctx']['expected'].replace('True', 'true').replace('False', 'false')}."
    shown = (
        f" {json.dumps(value, ensure_ascii=False)}" if parameter and isinstance(value, (str, int, float, bool)) else ""
    )
    if len(shown) > LONGEST_VALUE:
        shown = f" of {len(value):,} characters" if isinstance(value, str) else ""
    return ApiError(400, f"{name}{shown}: {said}", parameter=parameter, code="invalid_value")


def add_handlers(app: FastAPI) -> None:
    """Has an application answer all errors in this shape."""

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> JSONResponse:
        return error.response

    @app.exception_handler(EngineError)
    async def refused(request: Request, error: EngineError) -> JSONResponse:
        return of_engine(error).response

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        messages = {
            404: f"There is no {request.url.path} here; see GET /v1/models and the documentation.",
            405: f"{request.url.path} does not take {request.method}.",
        }
        message = messages.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, code=CODES.get(error.status_code), headers=error.headers).response

    @app.exception_handler(Exception)  # which is logged, as all that nobody caught
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return unexpected().response
