"""`/v1/images`: pictures of prompts, and edits, whole or as they are drawn."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

import PIL.Image
from fastapi import APIRouter, Depends, Request

from .bodies import Edit, edit_of, json_body
from .engine import Event, Events, Finished, Picture, PictureRequest, Preview, Usage
from .pictures import check_edits, check_format, coded, encoded, opened, whitened
from .schemas import ImageGeneration, PictureFields
from .streams import Served, ServerSentEvents, told_usage

router = APIRouter(prefix="/v1/images")
usage_of = partial(told_usage, read="input", written="output")


@router.post("/generations")
async def generate(body: Annotated[ImageGeneration, Depends(json_body(ImageGeneration))], request: Request):
    served = Served.of(request)
    served.check_model(body.model)
    return await answered(served, "image_generation", body)


@router.post("/edits")
async def edit(form: Annotated[Edit, Depends(edit_of)], request: Request):
    served = Served.of(request)
    served.check_model(form.body.model)
    sources = [*form.images, *([form.mask] if form.mask else [])]
    pictures = await served.in_time(opened(sources, served.limits))
    mask = await coded(whitened, pictures.pop()) if form.mask else None
    return await answered(served, "image_edit", form.body, pictures, mask)


async def answered(
    served: Served, kind: str, body: PictureFields, images: list = (), mask: PIL.Image.Image | None = None
):
    """The response to a request for pictures: a stream, or all of them."""
    asked = PictureRequest(
        prompt=body.prompt,
        images=images,
        mask=mask,
        size=body.width_and_height,
        count=body.n,
        seed=body.seed,
        previews=body.partial_images,
        sampling=body.sampling,
    )
    size = asked.size or served.engine.about.size
    if asked.keeps_size:
        size = images[0].size
        check_edits(asked.count, size, served.limits)
    check_format(body.output_format, size)
    events = await served.events(asked)
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
    files = [await coded(encoded, each.image, body.output_format, body.output_compression) for each in pictures]
    data = [{"b64_json": file, **own(body, each)} for file, each in zip(files, pictures, strict=True)]
    return {"created": created, "data": data, **stated(body, pictures[0].image), "usage": usage_of(usage)}


async def streamed(events: AsyncIterator[Event], kind: str, body: PictureFields) -> AsyncIterator[tuple[str, dict]]:
    """Events as OpenAI's clients know them. `index` says of several pictures which it is."""
    shown = [0] * body.n
    async for event in events:
        if not isinstance(event, (Preview, Picture)):
            continue
        image = await coded(encoded, event.image, body.output_format, body.output_compression)
        told = {"b64_json": image, "created_at": int(time.time()), **stated(body, event.image), "index": event.number}
        if isinstance(event, Preview):
            name, told["partial_image_index"] = f"{kind}.partial_image", shown[event.number]
            shown[event.number] += 1
        else:
            name, told = f"{kind}.completed", told | {"usage": usage_of(event.usage), **own(body, event)}
        yield name, {"type": name, **told}
