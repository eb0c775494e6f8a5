"""`/v1/images`: pictures of prompts, and edits, whole or as they are drawn."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

import PIL.Image
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from .engine import Event, Events, Finished, Picture, PictureRequest, Preview, Usage
from .errors import ApiError
from .limits import MOST_IMAGES
from .pictures import encoded, opened, whitened
from .schemas import ImageEdit, ImageGeneration, ImageReference, PictureFields
from .streams import Served, ServerSentEvents, told_usage

router = APIRouter(prefix="/v1/images")
usage_of = partial(told_usage, read="input", written="output")
IMAGES = ("image", "image[]")  # how multipart forms call one and several


@router.post("/generations")
async def generate(body: ImageGeneration, request: Request):
    served = Served.of(request)
    served.check_model(body.model)
    return await answered(served, "image_generation", body)


async def edit_form(request: Request) -> tuple[ImageEdit, list[str | bytes], str | bytes | None]:
    """An edit's fields, pictures and mask, of a multipart form or of JSON.

    Raises:
        RequestValidationError, ApiError: fields or pictures that are none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    files = {"image": [], "mask": []}
    if kind == "multipart/form-data":
        async with request.form(max_files=MOST_IMAGES + 2, max_fields=100, max_part_size=2**20) as form:
            fields = {}
            for name, value in form.multi_items():
                place = "image" if name in IMAGES else name
                if isinstance(value, UploadFile):
                    if place not in files:
                        raise ApiError(400, f"{name} is no file of an edit; send image, and mask.", parameter=name)
                    files[place].append(await value.read())
                elif place == "image":  # an address, or a data URL
                    fields.setdefault("image", []).append(value)
                elif name in fields:
                    raise ApiError(400, f"{name} is given twice; give it once.", parameter=name)
                else:
                    fields[name] = value
    elif kind == "application/json":
        try:
            fields = await request.json()
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "The body is no JSON.", code="invalid_json") from error
    else:
        raise ApiError(415, "An edit is multipart/form-data, or application/json; state it as Content-Type.")
    try:
        body = ImageEdit.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    images = files["image"] + ([body.image] if isinstance(body.image, str) else body.image or [])
    images += [each.image_url for each in body.images or ()]
    masks = files["mask"] + [body.mask.image_url if isinstance(body.mask, ImageReference) else body.mask]
    masks = [mask for mask in masks if mask is not None]
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ApiError(400, f"{len(images)} pictures are given; send 1 to {MOST_IMAGES}.", parameter="image")
    if len(masks) > 1:
        raise ApiError(400, "Several masks are given; send one, of the first picture.", parameter="mask")
    return body, images, masks[0] if masks else None


@router.post("/edits")
async def edit(form: Annotated[tuple, Depends(edit_form)], request: Request):
    (body, images, mask), served = form, Served.of(request)
    served.check_model(body.model)
    names = [f"image {number}" if len(images) > 1 else "image" for number in range(1, len(images) + 1)]
    sources = images if mask is None else [*images, mask]
    pictures = await opened(sources, served.limits, [*names, "mask"][: len(sources)])
    mask = None if mask is None else whitened(pictures.pop())
    return await answered(served, "image_edit", body, pictures, mask)


async def answered(
    served: Served, kind: str, body: PictureFields, images: list = (), mask: PIL.Image.Image | None = None
):
    """The response to a request for pictures: a stream, or all of them."""
    events = await served.events(
        PictureRequest(
            prompt=body.prompt,
            images=images,
            mask=mask,
            size=body.width_and_height,
            count=body.n,
            seed=body.seed,
            previews=body.partial_images,
            sampling=body.sampling,
        )
    )
    if body.stream:
        return ServerSentEvents(events, streamed(served.timed(events), kind, body))
    async with aclosing(events):
        return await whole(served, events, body)


def stated(body: PictureFields, picture: PIL.Image.Image) -> dict:
    """What responses and events say of a picture beside itself."""
    return {
        "background": "opaque",
        "output_format": body.output_format,
        "quality": body.rendering,
        "size": f"{picture.width}x{picture.height}",
    }


def own(body: PictureFields, picture: Picture) -> dict:
    """What of a picture is not OpenAI's: the seed that draws it again, and its codes if they were asked for."""
    return {"seed": picture.seed} | ({"codes": picture.codes} if body.codes else {})


async def whole(served: Served, events: Events, body: PictureFields) -> dict:
    created, pictures, usage = int(time.time()), [], Usage()
    async for event in served.timed(events):
        if isinstance(event, Picture):
            pictures.append(event)
        elif isinstance(event, Finished):
            usage = event.usage
    pictures.sort(key=lambda picture: picture.number)
    data = [
        {"b64_json": encoded(each.image, body.output_format, body.output_compression), **own(body, each)}
        for each in pictures
    ]
    return {"created": created, "data": data, **stated(body, pictures[0].image), "usage": usage_of(usage)}


async def streamed(events: AsyncIterator[Event], kind: str, body: PictureFields) -> AsyncIterator[tuple[str, dict]]:
    """Events as OpenAI's clients know them. `index` says of several pictures which it is."""
    shown = [0] * body.n
    async for event in events:
        if not isinstance(event, (Preview, Picture)):
            continue
        image = encoded(event.image, body.output_format, body.output_compression)
        told = {"b64_json": image, "created_at": int(time.time()), **stated(body, event.image), "index": event.number}
        if isinstance(event, Preview):
            name, told["partial_image_index"] = f"{kind}.partial_image", shown[event.number]
            shown[event.number] += 1
        else:
            name, told = f"{kind}.completed", told | {"usage": usage_of(event.usage), **own(body, event)}
        yield name, {"type": name, **told}
