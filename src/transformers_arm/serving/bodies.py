"""Bodies of requests, read into their schemas: JSON, and the forms that edits may be.

Cheap before dear: what a body costs to be read is bounded by its length, not by how it is nested.
"""

import codecs
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from .errors import ApiError, of_validation, shortened
from .limits import MOST_FIELDS, MOST_IMAGES
from .schemas import Fields, ImageEdit
from .streams import Served

MARKS = (b",", b"[", b"{")  # of JSON
MOST_MARKS = 2**16  # twice as many as the longest prompt could have
IMAGES = ("image", "image[]")  # how multipart forms call one and several


def kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_of(request: Request, schema: type[Fields]) -> Fields:
    """The body of a request, which is JSON.

    Raises:
        ApiError: it is none, or not what the schema says.
    """
    if kind_of(request) != "application/json":
        raise ApiError(415, "The body is JSON here; state Content-Type: application/json.", code="wrong_content_type")
    body = await request.body()
    marks = sum(map(body.count, MARKS))
    if marks > MOST_MARKS:
        message = f"The body has {marks:,} commas and opening brackets; at most {MOST_MARKS:,} are read."
        raise ApiError(413, message, code="request_too_large")
    return validated(schema.model_validate_json, body.removeprefix(codecs.BOM_UTF8))


def json_body(schema: type[Fields]) -> Callable[[Request], Awaitable[Fields]]:
    """A dependency of a route whose body is JSON."""

    async def read(request: Request) -> Fields:
        return await json_of(request, schema)

    return read


def validated(validate: Callable[..., Fields], given) -> Fields:
    try:
        return validate(given)
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False)) from None


# --- edits -----------------------------------------------------------------------------------------------------------


class Edit(NamedTuple):
    """A request to edit.

    Args:
        body: its fields, with those pictures that are no files.
        images: what the request calls each picture, and the picture: a file's bytes, a data URL or an address.
        mask: the same of the mask.
    """

    body: ImageEdit
    images: list[tuple[str, str | bytes]]
    mask: tuple[str, str | bytes] | None


async def edit_of(request: Request) -> Edit:
    """An edit, of a multipart form or of JSON.

    Raises:
        ApiError: fields or pictures that are none, too many or too few.
    """
    kind, files = kind_of(request), {"image": [], "mask": []}
    if kind == "multipart/form-data":
        body, files = await form_of(request)
    elif kind == "application/json":
        body = await json_of(request, ImageEdit)
    else:
        message = "An edit is multipart/form-data, or application/json; state it as Content-Type."
        raise ApiError(415, message, code="wrong_content_type")
    images = [*files["image"], *body.image]
    images = [(f"image.{number}" if len(images) > 1 else "image", image) for number, image in enumerate(images)]
    images += [(f"images.{number}.image_url", each.image_url) for number, each in enumerate(body.images)]
    masks = [*files["mask"], *([body.mask.image_url] if body.mask else [])]
    if not 1 <= len(images) <= MOST_IMAGES:
        message = f"{len(images)} pictures are given; send 1 to {MOST_IMAGES}."
        raise ApiError(400, message, parameter="image", code="invalid_value")
    if len(masks) > 1:
        message = "Several masks are given; send one, of the first picture."
        raise ApiError(400, message, parameter="mask", code="invalid_value")
    return Edit(body, images, ("mask", masks[0]) if masks else None)


async def form_of(request: Request) -> tuple[ImageEdit, dict[str, list[bytes]]]:
    """The fields of a form, and its files."""
    bound = Served.of(request).limits.max_body  # a picture may be text
    try:
        async with request.form(max_files=MOST_IMAGES + 2, max_fields=MOST_FIELDS, max_part_size=bound) as form:
            fields, files = await sorted_out(form)
    except (HTTPException, FormParserError) as error:  # which say what is wrong with it
        raise ApiError(400, str(getattr(error, "detail", error)), code="invalid_form") from None
    except UnicodeError:
        message = "The form's Content-Type states a charset that is none; leave it out."
        raise ApiError(400, message, code="invalid_form") from None
    return validated(ImageEdit.model_validate, fields), files


async def sorted_out(form: FormData) -> tuple[dict, dict[str, list[bytes]]]:
    fields, files = {}, {"image": [], "mask": []}
    for name, value in form.multi_items():
        place = "image" if name in IMAGES else name
        if isinstance(value, UploadFile):
            if place not in files:
                message = f"{shortened(name)} is no file of an edit; send image, and mask."
                raise ApiError(400, message, parameter=name, code="unknown_parameter")
            files[place].append(await value.read())
        elif place == "image":  # an address, or a data URL
            fields.setdefault("image", []).append(value)
        elif name in fields:
            message = f"{shortened(name)} is given twice; give it once."
            raise ApiError(400, message, parameter=name, code="invalid_value")
        else:
            fields[name] = value
    return fields, files
