"""An `Engine` of an ARM: one thread owns the model, and works off one line of requests in batches of one shape."""

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from types import MappingProxyType

import torch
from PIL.Image import Image

from ..configuration_arm import MAX_GRID_SIDE
from ..edits_arm import Sources
from ..pipeline_arm import ArmImageEditingPipeline, ArmImagePipeline, ArmTextToImagePipeline
from ..sampling_arm import IMAGE_GENERATION, ImageSampling
from .arm_conversations import AnswerJob, counted, write_together
from .arm_drawing import DrawingJob, NobodyWaits, draw_together, drawing_settings, with_pictures
from .engine import (
    About,
    ConversationRequest,
    Failed,
    Finished,
    InvalidRequest,
    Load,
    PictureRequest,
    Sampling,
    Usage,
)
from .waiting import Answer, Job, Line

logger = logging.getLogger(__name__)
SEEDS = 2**63  # that torch takes
DRAWN_SEEDS = 2**31  # of which one is drawn where none is stated: short enough to be typed


@contextmanager
def refusing(parameter: str | None = None) -> Iterator[None]:
    """Makes what our own checks raise of a request an `InvalidRequest`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InvalidRequest(str(error), parameter) from error


class PicturesTogether:
    """What the pictures of one request share: their prompt, what they edit, and that the last one finishes it."""

    def __init__(self, request: PictureRequest, inputs: dict, sources: Sources | None):
        self.inputs, self.sources = inputs, sources
        self.count = self.left = request.count
        self.keeps_size = request.keeps_size
        self.usage = [0, 0]
        self.ready = None

    def read(self, pipe: ArmImagePipeline) -> dict:
        if self.ready is None:
            self.ready = with_pictures(pipe, self.inputs)
            self.usage = counted(pipe.model.config, self.ready["input_ids"][0].tolist())
        return self.ready


class PictureJob(DrawingJob):
    """One picture of a `PictureRequest`."""

    def __init__(
        self, answer: Answer, together: PicturesTogether, grid: tuple[int, int], seed: int, settings: dict, patch: int
    ):
        super().__init__(answer)
        self.together, self.grid, self.seed, self.settings, self.patch = together, grid, seed, settings, patch
        branches = tuple(sorted(name for name in together.inputs if name.endswith("_ids")))
        self.key = ("draw", grid, branches, tuple(sorted(settings.items())))

    def inputs(self, pipe: ArmImagePipeline) -> dict[str, torch.Tensor]:
        return self.together.read(pipe)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def drawn(self, tokens: list[int], picture: Image, codes: torch.LongTensor) -> None:
        shared = self.together
        if shared.keeps_size:
            picture = shared.sources.fit(picture, None, self.patch)
        self.give(picture, codes, shared.usage)
        self.over = True
        shared.left -= 1
        if not shared.left:
            pictures = shared.count * codes.numel()
            self.answer.put(Finished("stop", Usage(*shared.usage, 0, pictures)))


class ArmEngine:
    """See `Engine`.

    Args:
        draw: a pipeline "text-to-image", whose model, processor and detokenizer are this engine's from now on.
        name: of the model, for people; None is where it was loaded from.
        examples: texts to try, by task.
        queue: requests that may wait.
        max_batch: pictures that are drawn together, and answers that are written together.
    """

    def __init__(
        self,
        draw: ArmTextToImagePipeline,
        *,
        name: str | None = None,
        examples: Mapping[str, Sequence[str]] = MappingProxyType({}),
        queue: int = 64,
        max_batch: int = 8,
    ):
        model, processor = draw.model, draw.processor
        self.pipe = draw
        self.edits = ArmImageEditingPipeline(
            model, processor=processor, detokenizer=draw.detokenizer, device=draw.device
        )
        patch, size = processor.image_processor.patch_size, processor.image_processor.size
        self.about = About(
            model=name or model.name_or_path,
            device=str(draw.device),
            dtype=str(model.dtype).removeprefix("torch."),
            patch_size=patch,
            size=(size["width"], size["height"]),
            max_side=MAX_GRID_SIDE * patch,
            max_tokens=model.config.max_position_embeddings,
            examples=examples,
        )
        self.line = Line(queue, max_batch)
        self._thread = Thread(target=self._work, name="arm-engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        return Load(*self.line.counts)

    async def draw(self, request: PictureRequest) -> Answer:
        return await self._taken(self._picture_jobs, request)

    async def converse(self, request: ConversationRequest) -> Answer:
        return await self._taken(self._answer_jobs, request)

    def close(self) -> None:
        self.line.close()
        self._thread.join()

    async def _taken(self, jobs_of, request) -> Answer:
        """The answer to a request whose jobs, made in a thread, have entered the line."""
        self.line.check_room()
        answer = Answer()
        self.line.enter(await asyncio.to_thread(jobs_of, request, answer))
        return answer

    # --- what is asked for ----------------------------------------------------------------------------------------

    def _picture_jobs(self, request: PictureRequest, answer: Answer) -> list[PictureJob]:
        if request.count < 1:
            raise InvalidRequest(f"count {request.count} must be 1 or more.", "count")
        seed, settings = self._seed(request.seed, request.count), self._settings(request.sampling)
        if request.mask is not None and not request.images:
            raise InvalidRequest("A mask says where a picture may change, but there is none; pass one.", "mask")
        pipe, asked = self.pipe, {"prompt": request.prompt}
        if request.images:
            pipe, asked = self.edits, {**asked, "images": list(request.images), "mask": request.mask}
        with refusing("prompt"):
            pipe.checked(asked)
        with refusing("image" if request.mask is None else "mask"):
            opened = pipe.opened(asked)
        grid = self._grid(request.size) if request.size else pipe.own_grid(opened)
        with refusing("prompt"):
            inputs = pipe.preprocess([opened], grid)["inputs"]
        self._check_length(inputs["input_ids"].shape[1], grid)
        together = PicturesTogether(request, inputs, opened.get("sources"))
        jobs = [
            PictureJob(answer, together, grid, seed + number, settings, self.about.patch_size)
            for number in range(request.count)
        ]
        for number, job in enumerate(jobs):
            job.number, job.previews = number, request.previews
        return jobs

    def _answer_jobs(self, request: ConversationRequest, answer: Answer) -> list[AnswerJob]:
        seed, settings = self._seed(request.seed), self._settings(request.sampling)
        with refusing("messages"):
            inputs = self.pipe.processor.apply_chat_template(
                list(request.messages),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        room = self.about.max_tokens - inputs["input_ids"].shape[1]
        if room < 1:
            raise InvalidRequest(
                f"The conversation has {inputs['input_ids'].shape[1]} tokens, and the model takes "
                f"{self.about.max_tokens} with the answer; shorten it.",
                "messages",
            )
        if request.max_tokens is not None and request.max_tokens < 1:
            raise InvalidRequest(f"max_tokens {request.max_tokens} must be 1 or more.", "max_tokens")
        own = None if request.pictures else self.pipe.model.generation_config.max_new_tokens
        most = min(room, request.max_tokens or own or room)
        return [AnswerJob(answer, request, self.pipe, inputs, most, seed, settings)]

    def _seed(self, seed: int | None, count: int = 1) -> int:
        if seed is None:
            return random.randrange(DRAWN_SEEDS)
        if not 0 <= seed <= SEEDS - count:
            raise InvalidRequest(f"seed {seed} and those that follow must be in 0..{SEEDS - 1}.", "seed")
        return seed

    def _settings(self, sampling: Sampling) -> dict:
        settings = drawing_settings(sampling, self.pipe.detokenizer.config.default_steps)
        with refusing("sampling"):
            ImageSampling(**{name: value for name, value in settings.items() if name in IMAGE_GENERATION})
        return settings

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """H, W in tokens of a size in px."""
        patch, most = self.about.patch_size, self.about.max_side
        if any(side % patch or not patch <= side <= most for side in size):
            raise InvalidRequest(
                f"size {size[0]}x{size[1]} (width x height) must have sides that are multiples of {patch} px, {patch} "
                f"to {most}.",
                "size",
            )
        return size[1] // patch, size[0] // patch

    def _check_length(self, prompt: int, grid: tuple[int, int]) -> None:
        tokens = grid[0] * grid[1]
        if prompt + tokens + 4 > self.about.max_tokens:
            raise InvalidRequest(
                f"The prompt has {prompt} tokens and its picture {tokens}, and the model takes "
                f"{self.about.max_tokens} together; shorten the prompt, or take a smaller size.",
                "prompt" if prompt > tokens else "size",
            )

    # --- the thread that owns the model ---------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self.line.take():
            try:
                self._run(jobs)
            finally:
                self.line.done()

    def _run(self, jobs: list[Job]) -> None:
        """Does jobs of one key in one go; one by one if that fails, so that none harms another."""
        run = draw_together if jobs[0].key[0] == "draw" else write_together
        try:
            run(self.pipe, jobs)
        except NobodyWaits:
            pass
        except Exception as error:
            logger.exception("A batch of %d failed: %s", len(jobs), error)
            if len(jobs) == 1:
                jobs[0].answer.put(Failed("The model failed at this request; the server's log says why."))
                return
            for job in jobs:
                if job.wanted:
                    self._run([job])
