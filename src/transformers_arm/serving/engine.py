"""What draws, edits and converses, as servers and pages see it: `Engine`, its requests and its events.

Knows no model and no HTTP: routes and pages are written for this, and any model that is put behind it answers them.

    async with aclosing(await engine.draw(PictureRequest("a red circle", previews=3, seed=0))) as events:
        async for event in events:
            match event:
                case Preview(): ...   # number of the picture, rows that are drawn, the picture so far
                case Picture(): ...   # number, the picture, its seed and its codes
                case Finished(): ...  # the last one: why, and how many tokens were read and written

Whoever asks does so in an event loop, any one, and gets each event as soon as it is there. **Closing what `draw` and
`converse` give cancels the request**, before it has begun or while it runs; so does the end of the task that reads it,
with `aclosing`. Requests are taken in parallel, and no request changes what another gets: a picture is the same
whatever is drawn beside it, and again for the same seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL.Image import Image

TASKS = frozenset({"draw", "edit", "converse", "interleave"})
Quality = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class About:
    """What an engine is and takes.

    Args:
        model: its name, for people and for the `model` of requests.
        device, dtype: where it computes, and in what.
        patch_size: px; widths and heights of pictures are multiples of it.
        size: (width, height) in px of a picture for which a request states none.
        max_side: px of a side that the model can state at most.
        max_tokens: of a prompt and its answer together; a picture has a token a patch.
        tasks: of "draw", "edit", "converse" and "interleave", those it can.
        examples: texts to try, by task.
    """

    model: str
    device: str
    dtype: str
    patch_size: int
    size: tuple[int, int]
    max_side: int
    max_tokens: int
    tasks: frozenset[str] = TASKS
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Pictures and answers that wait, and that are being made, at this moment."""

    waiting: int
    running: int


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; None is the model's own setting.

    Args:
        temperature: of the codes; 0 takes the likeliest.
        guidance_scale: of the text; 1 turns it off.
        image_guidance_scale: of the pictures that are edited; 1 turns it off.
        quality: how many steps render the codes: a quarter, half or all of the model's own.
    """

    temperature: float | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    quality: Quality = "high"


@dataclass(frozen=True)
class PictureRequest:
    """Pictures of a prompt, or, with `images`, edits of the first of them.

    Args:
        prompt: what to draw, or what to change. Control tokens in it are text.
        images: to edit, opened; further ones are what the edit is made of.
        mask: of the first one's size, white where it may change; None for everywhere.
        size: (width, height) in px to draw at; None is the model's, or that of the first image. See `keeps_size`.
        count: pictures of this prompt, with seeds that follow each other.
        seed: of the first; None draws one.
        previews: of each picture, evenly over its rows of tokens; more than it has rows are as many as it has.
    """

    prompt: str
    images: Sequence[Image] = ()
    mask: Image | None = None
    size: tuple[int, int] | None = None
    count: int = 1
    seed: int | None = None
    previews: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def keeps_size(self) -> bool:
        """Whether these are edits that come back at the size of their picture: all but those of a stated size without
        a mask.
        """
        return bool(self.images) and (self.size is None or self.mask is not None)


@dataclass(frozen=True)
class ConversationRequest:
    """A conversation that is to be answered.

    Args:
        messages: `[{"role", "content"}]`, as transformers' chat templates take them: a content is a str, or a list of
            `{"type": "text", "text": str}` and `{"type": "image", "image": PIL.Image}`. Control tokens are text.
        pictures: whether the answer may have pictures among its texts, where the model chooses to draw them.
        max_tokens: of the answer, texts and pictures together; None is the model's own bound.
        temperature, top_p: of the texts; None is the model's own setting, temperature 0 takes the likeliest. A `top_p`
            without a temperature samples at 1 where the model's own is to take the likeliest.
        seed: of texts and pictures; None draws one.
        previews: of each picture, as for `PictureRequest`.
        sampling: of the pictures.
    """

    messages: Sequence[dict]
    pictures: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    previews: int = 0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Text:
    """The next piece of an answer's text."""

    text: str


@dataclass(frozen=True)
class Preview:
    """What a picture looks like while its tokens come.

    Args:
        number: of the picture among those of the request, or of the answer, from 0.
        rows, of: rows of tokens that are drawn, and all of them.
        image: at the size it is drawn at.
    """

    number: int
    rows: int
    of: int
    image: Image


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written, by kind."""

    input_text: int = 0
    input_images: int = 0
    output_text: int = 0
    output_images: int = 0


@dataclass(frozen=True)
class Picture:
    """A picture that is done.

    Args:
        number: of the picture among those of the request, or of the answer, from 0.
        image: an RGB picture.
        seed: which draws it again; in an answer, that of the answer.
        codes: H rows of W numbers, what the model drew.
        usage: of this picture alone, what its prompt has, and it.
    """

    number: int
    image: Image
    seed: int
    codes: list[list[int]]
    usage: Usage


@dataclass(frozen=True)
class Finished:
    """The last event of a request that came to its end.

    Args:
        reason: "stop" where all is there, "length" where `max_tokens` cut the answer.
    """

    reason: Literal["stop", "length"]
    usage: Usage


Event = Text | Preview | Picture | Finished


class EngineError(Exception):
    """Why a request has no (whole) answer, in words for whoever asked: they tell nothing of the machine."""


class InvalidRequest(EngineError):
    """The request cannot be answered as it is.

    Args:
        parameter: the field of the request that has to change, if it is one.
    """

    def __init__(self, message: str, parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


class Busy(EngineError):
    """As many requests wait as may.

    Args:
        retry_after: seconds after which there may be room.
    """

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class Closed(EngineError):
    """The engine is shutting down."""


class Failed(EngineError):
    """The model failed at this request; the log of the process says why."""


class Events(Protocol):
    """An asynchronous iterator of the events of one request; it raises `Failed` or `Closed` in place of the last."""

    def __aiter__(self) -> "Events": ...

    async def __anext__(self) -> Event: ...

    async def aclose(self) -> None:
        """Cancels what is not done."""


class Engine(Protocol):
    """Whatever draws and converses behind the routes and the page."""

    @property
    def about(self) -> About:
        """What it is and takes."""

    @property
    def load(self) -> Load:
        """How much there is to do."""

    async def draw(self, request: PictureRequest) -> Events:
        """Takes a request for pictures: its `Preview`s and `Picture`s, those of several pictures in any order.

        Raises:
            InvalidRequest, Busy, Closed: it was not taken.
        """

    async def converse(self, request: ConversationRequest) -> Events:
        """Takes a conversation: the `Text`s, `Preview`s and `Picture`s of the answer.

        Raises:
            InvalidRequest, Busy, Closed: it was not taken.
        """

    def close(self) -> None:
        """Ends all requests, once those that are being made are done or have stopped, and the engine."""
