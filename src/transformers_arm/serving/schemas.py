"""What requests hold, in OpenAI's words, and what is ours beside it: `seed`, guidance, `temperature` and `codes`.

Fields that are not named here are refused, so that nothing a client asks for is passed over in silence.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .engine import Sampling
from .limits import LONGEST_PROMPT, MOST_FIELDS, MOST_IMAGES, MOST_MESSAGES

SIZE = re.compile(r"auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


def several(most: int, least: int = 0) -> Any:
    """So many of a list, which is read no further than to its first error: each of a million would be one."""
    return Field(min_length=least, max_length=most, fail_fast=True)


class Fields(BaseModel):
    """A JSON object of known fields; null is as good as nothing."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if len(given) > MOST_FIELDS:
            raise ValueError(f"has {len(given):,} fields; at most {MOST_FIELDS} are read.")
        return {name: value for name, value in given.items() if value is not None}


class PictureFields(Fields):
    """What requests to draw and to edit share.

    Without effect here, and accepted because OpenAI's clients send them: `user`, `moderation`, `safety_identifier`.
    """

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str = "auto"
    quality: Literal["low", "medium", "high", "auto"] = "auto"
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: int = Field(100, ge=0, le=100)
    background: Literal["opaque", "auto"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    moderation: Literal["low", "auto"] = "auto"
    safety_identifier: str | None = None
    seed: Seed | None = None
    guidance_scale: Scale | None = None
    temperature: Temperature | None = None
    codes: bool = False

    @field_validator("size")
    @classmethod
    def is_a_size(cls, size: str) -> str:
        if not SIZE.fullmatch(size):
            raise ValueError("a size is WIDTHxHEIGHT in px, such as 96x48, or auto.")
        return size

    @field_validator("output_compression")
    @classmethod
    def has_an_effect(cls, compression: int, info: ValidationInfo) -> int:
        if info.data.get("output_format") == "png" and compression != 100:
            raise ValueError("this is for webp and jpeg; png takes 100, or leave it out.")
        return compression

    @field_validator("partial_images")
    @classmethod
    def come_in_a_stream(cls, partial_images: int, info: ValidationInfo) -> int:
        if partial_images and not info.data.get("stream"):
            raise ValueError("they come in a stream; state stream as well.")
        return partial_images

    @property
    def rendering(self) -> Literal["low", "medium", "high"]:
        return "high" if self.quality == "auto" else self.quality

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.guidance_scale, None, self.rendering)

    @property
    def width_and_height(self) -> tuple[int, int] | None:
        if self.size == "auto":
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


class ImageGeneration(PictureFields):
    """`POST /v1/images/generations`."""


class ImageReference(Fields):
    image_url: str


def one_or_several(given: Any) -> Any:
    if not isinstance(given, (str, list)):
        raise ValueError("send a data URL, or a list of them.")
    return [given] if isinstance(given, str) else given


def url_or_reference(given: Any) -> Any:
    return {"image_url": given} if isinstance(given, str) else given


class ImageEdit(PictureFields):
    """`POST /v1/images/edits` as JSON: pictures are data URLs, or addresses where these are allowed.

    Args:
        image, images: one of them: the picture to edit, and others to take from.
        mask: as OpenAI has them, transparent where the picture may change.
    """

    image: Annotated[list[str], several(MOST_IMAGES), BeforeValidator(one_or_several)] = []
    images: Annotated[list[ImageReference], several(MOST_IMAGES)] = []
    mask: Annotated[ImageReference, BeforeValidator(url_or_reference)] | None = None
    image_guidance_scale: Scale | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.guidance_scale, self.image_guidance_scale, self.rendering)


# --- chat ------------------------------------------------------------------------------------------------------------


class ImageUrl(Fields):
    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"


class Part(Fields):
    """A piece of a message: a text or a picture."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def has_its_own(self) -> "Part":
        given = [name for name in ("text", "image_url") if getattr(self, name) is not None]
        if given != [self.type]:
            raise ValueError(f"a part of the type {self.type} has the field {self.type}, and no other.")
        return self


def text_or_parts(given: Any) -> Any:
    if not isinstance(given, (str, list)):
        raise ValueError("send a text, or a list of parts.")
    return [{"type": "text", "text": given}] if isinstance(given, str) else given


class Message(Fields):
    """A message; an assistant's may be what was answered before, pictures included."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], several(MOST_MESSAGES), BeforeValidator(text_or_parts)]
    name: str | None = None


class StreamOptions(Fields):
    include_usage: bool = False
    include_obfuscation: bool = False


class TextFormat(Fields):
    type: Literal["text"]


class ChatCompletion(Fields):
    """`POST /v1/chat/completions`.

    `modalities` of "text" and "image" let the answer have pictures, which `guidance_scale` is for. Without effect:
    `user`, `safety_identifier`, `metadata`, `store`, `stream_options.include_obfuscation`, and what clients send
    with the only value that is taken here.
    """

    messages: Annotated[list[Message], several(MOST_MESSAGES, least=1)]
    model: str | None = None
    modalities: Annotated[list[Literal["text", "image"]], several(2, least=1)] = ["text"]
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: Temperature | None = None
    top_p: float | None = Field(None, gt=0, le=1)
    seed: Seed | None = None
    guidance_scale: Scale | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=MOST_FIELDS)] | None = None
    store: Literal[False] = False
    n: Literal[1] = 1
    frequency_penalty: float = Field(0, ge=0, le=0)
    presence_penalty: float = Field(0, ge=0, le=0)
    logprobs: Literal[False] = False
    response_format: TextFormat | None = None

    @field_validator("messages")
    @classmethod
    def can_be_read(cls, messages: list[Message]) -> list[Message]:
        parts = [part for message in messages for part in message.content]
        characters = sum(len(part.text or "") for part in parts)
        if characters > LONGEST_PROMPT:
            raise ValueError(f"they have {characters:,} characters; at most {LONGEST_PROMPT:,} can be read.")
        images = sum(part.type == "image_url" for part in parts)
        if images > MOST_IMAGES:
            raise ValueError(f"they have {images} pictures; at most {MOST_IMAGES} can be read at once.")
        return messages

    @field_validator("modalities")
    @classmethod
    def have_texts(cls, modalities: list[str]) -> list[str]:
        if "text" not in modalities:
            raise ValueError('take ["text"], or ["text", "image"]; POST /v1/images/generations draws alone.')
        return modalities

    @field_validator("guidance_scale")
    @classmethod
    def is_of_pictures(cls, scale: float | None, info: ValidationInfo) -> float | None:
        if scale is not None and "image" not in info.data.get("modalities", ()):
            raise ValueError('this is of pictures; state modalities ["text", "image"].')
        return scale
