"""What requests hold, in OpenAI's words, and what is ours beside it: `seed`, guidance, `temperature` and `codes`.

Fields that are not named here are refused, so that nothing a client asks for is passed over in silence.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .engine import Sampling
from .limits import LONGEST_PROMPT, MOST_IMAGES

SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


class Fields(BaseModel):
    """A JSON object of known fields; null is as good as nothing."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, given: Any) -> Any:
        return (
            {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given
        )


class PictureFields(Fields):
    """What requests to draw and to edit share.

    Without effect here, and accepted because OpenAI's clients send them: `user`, `moderation`, `safety_identifier`.
    """

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str = Field("auto", pattern=SIZE)
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

    @model_validator(mode="after")
    def goes_together(self) -> "PictureFields":
        if self.output_format == "png" and self.output_compression != 100:
            raise ValueError(
                f"output_compression {self.output_compression} is for webp and jpeg; png takes 100, or leave it out."
            )
        if self.partial_images and not self.stream:
            raise ValueError(f"partial_images {self.partial_images} come in a stream; state stream as well.")
        return self

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


class ImageEdit(PictureFields):
    """`POST /v1/images/edits` as JSON: pictures are data URLs, or addresses where these are allowed.

    Args:
        image, images: one of them: the picture to edit, and others to take from.
        mask: as OpenAI has them, transparent where the picture may change.
    """

    image: str | list[str] | None = None
    images: list[ImageReference] | None = None
    mask: str | ImageReference | None = None
    image_guidance_scale: Scale | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.guidance_scale, self.image_guidance_scale, self.rendering)


# --- chat ------------------------------------------------------------------------------------------------------------


class TextPart(Fields):
    type: Literal["text"]
    text: str


class ImageUrl(Fields):
    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"


class ImagePart(Fields):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Fields):
    """A message; an assistant's may be what was answered before, pictures included."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = None


class StreamOptions(Fields):
    include_usage: bool = False


class ChatCompletion(Fields):
    """`POST /v1/chat/completions`.

    `modalities` of "text" and "image" let the answer have pictures, which `guidance_scale` is for. Without effect:
    `user`, `safety_identifier`, `metadata` and `store`.
    """

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    modalities: list[Literal["text", "image"]] = Field(["text"], min_length=1, max_length=2)
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: Temperature | None = None
    top_p: float | None = Field(None, gt=0, le=1)
    n: Literal[1] = 1
    seed: Seed | None = None
    guidance_scale: Scale | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] = False

    @model_validator(mode="after")
    def goes_together(self) -> "ChatCompletion":
        if "text" not in self.modalities:
            raise ValueError('modalities are ["text"], or ["text", "image"]; POST /v1/images/generations draws alone.')
        if self.guidance_scale is not None and "image" not in self.modalities:
            raise ValueError(
                f'guidance_scale {self.guidance_scale} is of pictures; state modalities ["text", "image"].'
            )
        images = sum(isinstance(part, ImagePart) for message in self.messages for part in message.content)
        if images > MOST_IMAGES:
            raise ValueError(f"messages have {images} pictures; at most {MOST_IMAGES} can be read at once.")
        characters = sum(
            len(part if isinstance(part, str) else getattr(part, "text", ""))
            for message in self.messages
            for part in ([message.content] if isinstance(message.content, str) else message.content)
        )
        if characters > LONGEST_PROMPT:
            raise ValueError(f"messages have {characters:,} characters; at most {LONGEST_PROMPT:,} can be read.")
        return self
