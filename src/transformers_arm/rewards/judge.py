"""A vision-language model as a reward: any OpenAI-compatible endpoint scores pictures by a rubric.

The role that GPT-o3 (text-to-image) and GPT-4.1 (editing) have in the paper's RL. Knows nothing about the policy.
"""

import asyncio
import hashlib
import json
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from huggingface_hub import ChatCompletionOutput
from PIL import Image

from ..fetching_arm import httpx
from .credentials import without_credentials
from .endpoint import Endpoint
from .errors import RewardError
from .event_loops import PerLoop
from .in_flight import InFlight, Work
from .pictures import FORMATS, PictureEncoder, PicturesOfCall
from .rubrics import RUBRICS, Rubric, Scores
from .score_cache import ScoreCache

logger = logging.getLogger(__name__)

_MIN_JUDGEMENTS = 10  # a share of failures among fewer says little
_AGAIN = {"type": "text", "text": "Answer with the JSON object alone."}  # where an answer had none
_PASSING_STATUS = (408, 409, 429)  # and every 5xx


class JudgeError(RewardError):
    """Too many judgements failed."""


class _NoScores(ValueError):
    """An answer without scores."""


@dataclass(frozen=True)
class _Row:
    """What is judged."""

    prompt: str
    image: Image.Image
    sources: Sequence[Image.Image]
    rubric: Rubric

    def labelled(self) -> list[tuple[str, Image.Image]]:
        """The pictures in the order in which they are shown."""
        one = len(self.sources) == 1
        labels = ["Source picture:" if one else f"Source picture {n}:" for n, _ in enumerate(self.sources, 1)]
        return [*zip(labels, self.sources, strict=True), ("Result:", self.image)]


class _Judgement(Work):
    """A request on its way to scores, or to None, and what it took."""

    is_from_cache = False
    prompt_tokens = completion_tokens = 0


class _Call:
    """What rows of one call share."""

    def __init__(self, encoder: PictureEncoder):
        self.pictures = PicturesOfCall(encoder)
        self.judgements: dict[str, _Judgement] = {}  # by key
        self.own: list[_Judgement] = []  # those that nobody had asked for before
        self.cache_hits = 0


@dataclass
class _OnLoop:
    """What a judge has on one event loop."""

    semaphore: asyncio.Semaphore
    in_flight: InFlight


def _retry_after(header: str) -> float:
    """Seconds that a server asks to wait (RFC 9110: a number of them, or a date), 0 if it asks for nothing."""
    try:
        return float(header) if header.isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return 0.0


def _scores_in(response: ChatCompletionOutput, rubric: Rubric) -> Scores:
    """The scores that a response gives. Raises _NoScores where it gives none."""
    try:
        choice = response.choices[0]
        message, content = choice.message, choice.message.content
    except (AttributeError, TypeError, IndexError):
        message = content = None
    if not isinstance(content, str):
        if any(getattr(message, name, None) for name in ("reasoning", "reasoning_content")):
            raise _NoScores("The response has reasoning and no text after it; raise max_tokens in `sampling`")
        raise _NoScores("The response has no text at choices[0].message.content")
    try:
        return rubric.parse(content)
    except ValueError as error:
        cut = ", cut off by max_tokens of `sampling`" if choice.finish_reason == "length" else ""
        raise _NoScores(f"{error}, in the answer {content!r}{cut}") from error


class VLMJudge:
    """An async reward: pictures scored by a vision-language model behind an OpenAI-compatible endpoint.

    A judgement that fails is None, counted and logged as a warning. What can pass (timeouts, connection errors, HTTP
    408, 409, 429 and 5xx, malformed answers) is asked again after a growing pause; other refusals are not. Pictures
    are encoded in threads, and each request leaves as soon as its own are. JSON is asked for by `response_format`, in
    the strictest form that the server takes; `Rubric.parse` says which answers count. No log and no error holds the
    key, nor a user, password or query of `base_url`.

    Args:
        model: name of the model at the endpoint.
        base_url: the endpoint, as in "http://localhost:8000/v1". A user and password in it (before an "@")
            authenticate by HTTP's Basic scheme, in place of a key.
        api_key: by default the environment's OPENAI_API_KEY. A Hugging Face token is never sent unless passed here.
        tasks: those it judges, by default all that have a rubric; pictures of others get None.
        rubrics: by task, added to `RUBRICS` or in place of them.
        sampling: fields of the request beside model and messages; reasoning models want other ones, such as
            `{"max_completion_tokens": 4096}`. A `response_format` among them is sent in place of the judge's own.
        image_format: "jpeg" (quality 95, colours in full) or "png" (no loss, thirty times the work).
        max_side: pictures are shrunk to this many pixels a side.
        timeout: seconds for a request.
        deadline: seconds for a picture, retries and pauses included, from its first request on.
        retries: further requests after the first.
        backoff: seconds of the first pause; it doubles each time, shortened at random by up to a half. A longer
            Retry-After of the server is kept to.
        concurrency: pictures asked about at a time, on each event loop.
        cache_dir: folder that keeps scores by request, so that no run pays twice. Safe to share between processes.
        input_price, output_price: for a million tokens, in any currency: what `cost` counts in.
        max_failure_share: more failures than this among the last `window` judgements (once there are 10), or a first
            call without any answer, raise JudgeError. 1 never raises.
        window: how many judgements that share is over.

    Attributes:
        base_url: the endpoint, without credentials.
        cost, requests, cache_hits, failures: so far, in this process. A hit is a score without a request of its own.
        criteria_scores: by picture of the last call, the scores by criterion, or None.

    Raises:
        ValueError: an argument outside its bounds.
    """

    limits_itself = True  # by `deadline`, a picture at a time: a limit on the whole call would lose what is answered

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        tasks: Sequence[str] | None = None,
        rubrics: Mapping[str, Rubric] | None = None,
        sampling: Mapping | None = None,
        image_format: str = "jpeg",
        max_side: int = 1024,
        timeout: float = 60.0,
        deadline: float = 180.0,
        retries: int = 4,
        backoff: float = 1.0,
        concurrency: int = 8,
        cache_dir: str | os.PathLike | None = None,
        input_price: float = 0.0,
        output_price: float = 0.0,
        max_failure_share: float = 0.2,
        window: int = 200,
    ):
        if not model:
            raise ValueError("The judge's model is empty; name one that the endpoint serves.")
        if image_format not in FORMATS:
            raise ValueError(f"image_format is {image_format!r}; it must be one of {', '.join(FORMATS)}.")
        for name, value, low, high in (
            ("max_side", max_side, 1, math.inf),
            ("timeout", timeout, 1e-3, math.inf),
            ("deadline", deadline, 1e-3, math.inf),
            ("retries", retries, 0, math.inf),
            ("backoff", backoff, 0, math.inf),
            ("concurrency", concurrency, 1, math.inf),
            ("input_price", input_price, 0, math.inf),
            ("output_price", output_price, 0, math.inf),
            ("max_failure_share", max_failure_share, 0, 1),
            ("window", window, _MIN_JUDGEMENTS, math.inf),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be in {low}..{high}.")
        self.sampling = dict(sampling) if sampling is not None else {"temperature": 0.0, "max_tokens": 256}
        self._endpoint = Endpoint(model, base_url, api_key, self.sampling)
        self.model, self.base_url = model, self._endpoint.shown
        self.rubrics = {**RUBRICS, **(rubrics or {})}
        self.tasks = tuple(self.rubrics) if tasks is None else tuple(tasks)
        if missing := [task for task in self.tasks if task not in self.rubrics]:
            known = ", ".join(self.rubrics)
            raise ValueError(f"There is no rubric for task {', '.join(missing)}; there is one for {known}.")
        shown_model = without_credentials(model).rstrip("/").rpartition("/")[-1]
        self.__name__ = f"judge_{shown_model}"  # TRL's name for it in logs
        self._encoder = PictureEncoder(image_format, max_side)
        self.timeout, self.deadline = timeout, deadline
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        self._cache = ScoreCache(cache_dir)
        self.input_price, self.output_price = input_price, output_price
        self.max_failure_share = max_failure_share
        self.prompt_tokens = self.completion_tokens = self.cache_hits = self.failures = 0
        self.criteria_scores: list[Scores | None] = []
        self._failed: deque[bool] = deque(maxlen=window)
        self._last_error = ""
        self._random = random.Random()  # the global one belongs to the training run's seed
        self._loops = PerLoop(lambda: _OnLoop(asyncio.Semaphore(self.concurrency), InFlight()))

    @property
    def cost(self) -> float:
        return self._price(self.prompt_tokens, self.completion_tokens)

    @property
    def requests(self) -> int:
        return self._endpoint.requests

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1e6

    async def __call__(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image],
        source_images: Sequence[Sequence[Image.Image]],
        task: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **columns,
    ) -> list[float | None]:
        """Rewards in 0..1, None where a judgement failed or the task is none of its own. `columns`, TRL's other
        keywords, are not looked at.

        `log_metric` gets, under this judge's name, the cost and cache_hits of this call on this process (with the
        cost of what `start` began for it), failure_share (of the window), and each criterion's mean, as in
        judge_o3/objects.

        Raises:
            JudgeError: too many failures; see `max_failure_share`.
            ValueError: inputs of different lengths, an edit without a source picture.
        """
        rows = self._rows(prompts, images, source_images, task)
        in_flight = self._loops.here().in_flight
        await in_flight.begun()
        left_over = in_flight.unclaimed()  # those of them that this call does not ask for
        call = _Call(self._encoder)
        try:
            scores = await asyncio.gather(*(self._judge(row, call) for row in rows if row is not None))
        finally:
            in_flight.drop(left_over)
        answers = iter(scores)
        self.criteria_scores = [None if row is None else next(answers) for row in rows]
        self._failed.extend(scored is None for scored in scores)
        if log_metric is not None:
            self._log(log_metric, call)
        self._check_failures()
        return [
            None if scored is None else row.rubric.reward(scored)
            for row, scored in zip(rows, self.criteria_scores, strict=True)
        ]

    async def start(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image],
        source_images: Sequence[Sequence[Image.Image]],
        task: Sequence[str],
        **columns,
    ) -> None:
        """Begins to judge pictures that a later call on this event loop will ask for, while others are still drawn.

        The call finds them by their content, and takes the judgement over with its cost. What it does not ask for is
        given up. Failures are that call's to report: nothing is raised here.
        """
        in_flight = self._loops.here().in_flight
        async with in_flight.beginning():
            try:
                rows = self._rows(prompts, images, source_images, task)
            except ValueError:
                return
            pictures = PicturesOfCall(self._encoder)
            begun = (self._begin(row, pictures) for row in rows if row is not None)
            await asyncio.gather(*begun, return_exceptions=True)

    def _rows(self, prompts, images, source_images, task) -> list[_Row | None]:
        """What is to be judged, None for tasks of others."""
        rows = []
        for prompt, image, sources, kind in zip(prompts, images, source_images, task, strict=True):
            if kind == "editing" and kind in self.tasks and not sources:
                raise ValueError(f"The edit {prompt!r} has no source picture to compare with; give source_images.")
            rows.append(_Row(prompt, image, sources, self.rubrics[kind]) if kind in self.tasks else None)
        return rows

    async def _begin(
        self, row: _Row, pictures: PicturesOfCall, known: dict[str, _Judgement] | None = None
    ) -> _Judgement:
        """A row's judgement: one of those `known`, which gets it, one in flight, or a new one.

        Raises what Pillow does where a picture is broken.
        """
        labelled = row.labelled()
        names = await asyncio.gather(*(pictures.name(image) for _, image in labelled))
        shown = [[label, name] for (label, _), name in zip(labelled, names, strict=True)]
        # Neither the encoded pictures, so that a hit encodes none, nor the form of answer, which is up to the server.
        question = [self.model, row.rubric.name, row.rubric.instructions, row.prompt, shown, self.sampling]
        judgement = _Judgement(hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest())

        async def run() -> Scores | None:
            return await self._scores_of(judgement, row, names, pictures)

        known = {} if known is None else known
        if judgement.key not in known:
            known[judgement.key] = self._loops.here().in_flight.begin(judgement, run)
        return known[judgement.key]

    async def _judge(self, row: _Row, call: _Call) -> Scores | None:
        """Scores of a row of a call, None if that fails."""
        try:
            judgement = await self._begin(row, call.pictures, call.judgements)
        except Exception as error:  # of a broken picture, which must not cost the others their scores
            self.failures += 1
            return self._fail(f"A picture cannot be read: {type(error).__name__}: {error}.")
        in_flight = self._loops.here().in_flight
        if is_first := in_flight.claim(judgement):
            call.own.append(judgement)
        scores = await in_flight.result(judgement)
        self.failures += scores is None
        if scores is not None and (judgement.is_from_cache or not is_first):
            self.cache_hits += 1
            call.cache_hits += 1
        return scores

    async def _scores_of(
        self, judgement: _Judgement, row: _Row, names: list[str], pictures: PicturesOfCall
    ) -> Scores | None:
        """Scores from the cache or from the endpoint; None if it fails."""
        if (scores := self._cache.read(judgement.key, row.rubric)) is not None:
            judgement.is_from_cache = True
            return scores
        try:
            messages = await self._messages(row, names, pictures)
            async with self._loops.here().semaphore, self._endpoint.client() as client:
                scores = await self._ask(client, judgement, row.rubric, messages)
        except Exception as error:  # its traceback would show addresses
            return self._fail(f"{type(error).__name__}: {error}.")
        if scores is not None:
            self._cache.write(judgement.key, scores)
        return scores

    async def _messages(self, row: _Row, names: list[str], pictures: PicturesOfCall) -> list[dict]:
        labelled = row.labelled()
        urls = await asyncio.gather(
            *(pictures.data_url(name, image) for name, (_, image) in zip(names, labelled, strict=True))
        )
        content = [{"type": "text", "text": f"Request: {row.prompt}"}]
        for (label, _), url in zip(labelled, urls, strict=True):
            content += [{"type": "text", "text": label}, {"type": "image_url", "image_url": {"url": url}}]
        return [{"role": "system", "content": row.rubric.instructions}, {"role": "user", "content": content}]

    async def _ask(self, client, judgement: _Judgement, rubric: Rubric, messages: list[dict]) -> Scores | None:
        await self._endpoint.ready()
        end = time.monotonic() + self.deadline
        for attempt in range(self.retries + 1):
            limit = min(self.timeout, end - time.monotonic())
            pause = self.backoff * 2**attempt * self._random.uniform(0.5, 1.0)
            try:
                response = await self._endpoint.ask(client, messages, rubric.schema, limit)
                self._count_tokens(judgement, response)
                return _scores_in(response, rubric)
            except asyncio.TimeoutError:
                reason = f"No response within {limit:.3g} s."
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                reason = f"HTTP {status} {error.response.reason_phrase}: {error.response.text}"
                if status not in _PASSING_STATUS and status < 500:
                    return self._fail(reason)
                pause = max(pause, _retry_after(error.response.headers.get("retry-after", "")))
            except _NoScores as error:
                reason = f"{error}."
                if _AGAIN in messages[-1]["content"]:
                    return self._fail(f"Asked for JSON alone, too: {reason}")
                messages = [*messages[:-1], {**messages[-1], "content": [*messages[-1]["content"], _AGAIN]}]
            except (httpx.HTTPError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}."
            if attempt < self.retries:
                if time.monotonic() + pause >= end:
                    return self._fail(f"The next pause would pass the deadline of {self.deadline:g} s. {reason}")
                await asyncio.sleep(pause)
        return self._fail(f"{self.retries + 1} requests failed. {reason}")

    def _count_tokens(self, judgement: _Judgement, response: ChatCompletionOutput) -> None:
        """A malformed answer costs as much as a good one."""
        usage = getattr(response, "usage", None)
        counts = (
            [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
        )
        if counts and all(isinstance(count, int) for count in counts):
            judgement.prompt_tokens += counts[0]
            judgement.completion_tokens += counts[1]
            self.prompt_tokens += counts[0]
            self.completion_tokens += counts[1]

    def _fail(self, reason: str) -> None:
        """Notes a failure: the one way by which what a server or an error says gets out."""
        reason = " ".join(self._endpoint.without_credentials(reason).split())[:500]
        self._last_error = reason
        logger.warning("Judge %s at %s gave no scores. %s", self.model, self.base_url, reason)

    def _log(self, log_metric: Callable[[str, float], None], call: _Call) -> None:
        name = self.__name__
        tokens = [(own.prompt_tokens, own.completion_tokens) for own in call.own]
        log_metric(f"{name}/cost", sum(self._price(*counts) for counts in tokens))
        log_metric(f"{name}/cache_hits", float(call.cache_hits))
        if self._failed:
            log_metric(f"{name}/failure_share", sum(self._failed) / len(self._failed))
        values: dict[str, list[float]] = {}
        for scores in filter(None, self.criteria_scores):
            for criterion, score in scores.items():
                if score is not None:
                    values.setdefault(criterion, []).append(score)
        for criterion, given in values.items():
            log_metric(f"{name}/{criterion}", sum(given) / len(given))

    def _check_failures(self) -> None:
        failed, count = sum(self._failed), len(self._failed)
        enough = count >= _MIN_JUDGEMENTS or failed == count  # nothing ever worked: no need to wait
        if enough and failed > self.max_failure_share * count:
            raise JudgeError(
                f"{failed} of the last {count} judgements failed ({failed / count:.0%}; the limit is "
                f"{self.max_failure_share:.0%}). Last error: {self._last_error} | Check that {self.base_url} serves "
                f"{self.model!r} to this key; for an endpoint that is only slow or busy raise timeout, deadline or "
                f"retries, or lower concurrency."
            )
