"""A vision-language model as a reward: any OpenAI-compatible endpoint scores pictures by a rubric.

The role that GPT-o3 (text-to-image) and GPT-4.1 (editing) have in the paper's RL. Knows nothing about the policy.
"""

import asyncio
import base64
import hashlib
import io
import json
import logging
import math
import os
import random
import re
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from huggingface_hub import AsyncInferenceClient, ChatCompletionOutput
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # HTTPError is httpx's or httpx2's, by the hub's version
from PIL import Image

from .errors import RewardError
from .rubrics import RUBRICS, Rubric, Scores

logger = logging.getLogger(__name__)

_MIN_JUDGEMENTS = 10  # a share of failures among fewer says little
_PASSING_STATUS = (408, 409, 429)  # and every 5xx


class JudgeError(RewardError):
    """Too many judgements failed."""


@dataclass(frozen=True)
class _Request:
    rubric: Rubric
    messages: list[dict] = field(repr=False)
    key: str  # names the request in the cache: equal requests, equal keys


class _Client(AsyncInferenceClient):
    """Without the Hub's hooks: under HF_HUB_OFFLINE=1 they would forbid a judge on one's own machine as well."""

    async def _get_async_client(self):
        client = await super()._get_async_client()
        client.event_hooks = {}
        return client


def _data_url(image: Image.Image, max_side: int) -> str:
    image = image.convert("RGB")  # a copy, which the next line may shrink
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _retry_after(header: str) -> float:
    """Seconds that a server asks to wait (RFC 9110: a number of them, or a date), 0 if it asks for nothing."""
    try:
        return float(header) if header.isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return 0.0


class VLMJudge:
    """An async reward: pictures scored by a vision-language model behind an OpenAI-compatible endpoint.

    A judgement that fails is None, counted and logged as a warning. What can pass (timeouts, connection errors, HTTP
    408, 409, 429 and 5xx, malformed answers) is asked again after a growing pause; other refusals are not.

    Args:
        model: name of the model at the endpoint.
        base_url: the endpoint, as in "http://localhost:8000/v1".
        api_key: by default the environment's OPENAI_API_KEY. A Hugging Face token is never sent unless passed here.
        tasks: those it judges, by default all that have a rubric; pictures of others get None.
        rubrics: by task, added to `RUBRICS` or in place of them.
        sampling: fields of the request beside model and messages; reasoning models want other ones, such as
            `{"max_completion_tokens": 4096}`.
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
        if not re.match(r"https?://[^/]", base_url or ""):
            raise ValueError(f"base_url is {base_url!r}; give an http(s) URL such as http://localhost:8000/v1.")
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
        self.model, self.base_url = model, base_url
        self._shown_url = re.sub(r"//[^/@]*@", "//", base_url)  # without a user and password
        # "EMPTY" is what local servers' users write; with no key at all the client would send the Hugging Face token.
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "EMPTY"
        self.rubrics = {**RUBRICS, **(rubrics or {})}
        self.tasks = tuple(self.rubrics) if tasks is None else tuple(tasks)
        if missing := [task for task in self.tasks if task not in self.rubrics]:
            known = ", ".join(self.rubrics)
            raise ValueError(f"There is no rubric for task {', '.join(missing)}; there is one for {known}.")
        self.__name__ = f"judge_{model.rstrip('/').rpartition('/')[-1]}"  # TRL's name for it in logs
        self.sampling = dict(sampling) if sampling is not None else {"temperature": 0.0, "max_tokens": 256}
        self.max_side, self.timeout, self.deadline = max_side, timeout, deadline
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.input_price, self.output_price = input_price, output_price
        self.max_failure_share = max_failure_share
        self.prompt_tokens = self.completion_tokens = self.requests = self.cache_hits = self.failures = 0
        self.criteria_scores: list[Scores | None] = []
        self._failed: deque[bool] = deque(maxlen=window)
        self._last_error = ""
        self._random = random.Random()  # the global one belongs to the training run's seed
        self._loops = weakref.WeakKeyDictionary()  # event loop -> its semaphore, its requests in flight by key

    @property
    def cost(self) -> float:
        return (self.prompt_tokens * self.input_price + self.completion_tokens * self.output_price) / 1e6

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

        `log_metric` gets, under this judge's name, the cost and cache_hits of this call on this process, failure_share
        (of the window), and each criterion's mean, as in judge_o3/objects.

        Raises:
            JudgeError: too many failures; see `max_failure_share`.
            ValueError: inputs of different lengths, an edit without a source picture.
        """
        rows = list(zip(prompts, images, source_images, task, strict=True))
        places = [place for place, row in enumerate(rows) if row[-1] in self.tasks]
        cost, cache_hits = self.cost, self.cache_hits
        requests = await asyncio.to_thread(
            self._prepare, [rows[place] for place in places]
        )  # encoding must not hold up others on this loop
        async with _Client(base_url=self.base_url, api_key=self._api_key) as client:
            scores = await asyncio.gather(*(self._judge(client, request) for request in requests))
        self.criteria_scores = [None] * len(rows)
        rewards: list[float | None] = [None] * len(rows)
        for place, request, scored in zip(places, requests, scores, strict=True):
            self.criteria_scores[place] = scored
            rewards[place] = None if scored is None else request.rubric.reward(scored)
        self._failed.extend(scored is None for scored in scores)
        if log_metric is not None:
            self._log(log_metric, cost, cache_hits)
        self._check_failures()
        return rewards

    def _prepare(self, rows: Sequence[tuple]) -> list[_Request]:
        urls = {}  # a group's rollouts share their source pictures

        def picture(label: str, image: Image.Image) -> list[dict]:
            if id(image) not in urls:
                urls[id(image)] = _data_url(image, self.max_side)
            url = {"type": "image_url", "image_url": {"url": urls[id(image)]}}
            return [{"type": "text", "text": label}, url]

        requests = []
        for prompt, image, sources, task in rows:
            if task == "editing" and not sources:
                raise ValueError(f"The edit {prompt!r} has no source picture to compare with; give source_images.")
            rubric = self.rubrics[task]
            content = [{"type": "text", "text": f"Request: {prompt}"}]
            for number, source in enumerate(sources, 1):
                content += picture("Source picture:" if len(sources) == 1 else f"Source picture {number}:", source)
            content += picture("Result:", image)
            messages = [{"role": "system", "content": rubric.instructions}, {"role": "user", "content": content}]
            whole = json.dumps([self.model, rubric.name, messages, self.sampling], sort_keys=True)
            requests.append(_Request(rubric, messages, hashlib.sha256(whole.encode()).hexdigest()))
        return requests

    async def _judge(self, client: _Client, request: _Request) -> Scores | None:
        """Scores from the cache, from an equal request in flight, or from the endpoint; None if it fails."""
        loop = asyncio.get_running_loop()
        semaphore, in_flight = self._loops.setdefault(loop, (asyncio.Semaphore(self.concurrency), {}))
        while request.key in in_flight:
            other = in_flight[request.key]
            await asyncio.wait([other])
            if not other.cancelled():  # else its call was given up: ask here
                scores = other.result()
                self.cache_hits += scores is not None
                self.failures += scores is None
                return scores
        if (scores := self._read_cache(request)) is not None:
            self.cache_hits += 1
            return scores
        answer = in_flight[request.key] = loop.create_future()
        try:
            async with semaphore:
                scores = await self._ask(client, request)
            answer.set_result(scores)
            return scores
        finally:
            del in_flight[request.key]
            answer.cancel()  # nothing happens where it has its result

    async def _ask(self, client: _Client, request: _Request) -> Scores | None:
        end = time.monotonic() + self.deadline
        for attempt in range(self.retries + 1):
            self.requests += 1
            limit = min(self.timeout, end - time.monotonic())
            pause = self.backoff * 2**attempt * self._random.uniform(0.5, 1.0)
            try:
                # Not the client's own timeout: that one starts anew with every byte.
                response = await asyncio.wait_for(
                    client.chat_completion(request.messages, model=self.model, extra_body=self.sampling), limit
                )
                scores = self._scores(response, request.rubric)
                self._write_cache(request, scores)
                return scores
            except asyncio.TimeoutError:
                reason = f"No response within {limit:.3g} s."
            except HfHubHTTPError as error:
                status = error.response.status_code
                reason = f"HTTP {status}: {error}"
                if status not in _PASSING_STATUS and status < 500:
                    return self._fail(reason)
                pause = max(pause, _retry_after(error.response.headers.get("retry-after", "")))
            except (HTTPError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}."
            if attempt < self.retries:
                if time.monotonic() + pause >= end:
                    return self._fail(f"The next pause would pass the deadline of {self.deadline:g} s. {reason}")
                await asyncio.sleep(pause)
        return self._fail(f"{self.retries + 1} requests failed. {reason}")

    def _scores(self, response: ChatCompletionOutput, rubric: Rubric) -> Scores:
        """The scores in a response, whose tokens are counted. Raises ValueError where it is malformed."""
        usage = response.usage if isinstance(response.usage, Mapping) else {}
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
            self.prompt_tokens += prompt_tokens  # a malformed answer costs as much as a good one
            self.completion_tokens += completion_tokens
        try:
            content = response.choices[0].message.content
            return rubric.parse(content)
        except (AttributeError, TypeError, IndexError) as error:
            raise ValueError("The response has no text at choices[0].message.content") from error
        except ValueError as error:
            raise ValueError(f"{error}, in the answer {content[:200]!r}") from error

    def _fail(self, reason: str) -> None:
        reason = " ".join(reason.replace(self._api_key, "<api key>").split())[:500]  # servers like to quote the key
        self.failures += 1
        self._last_error = reason
        logger.warning("Judge %s at %s gave no scores. %s", self.model, self._shown_url, reason)

    def _read_cache(self, request: _Request) -> Scores | None:
        if self.cache_dir is None:
            return None
        try:
            return request.rubric.parse((self.cache_dir / f"{request.key}.json").read_text())
        except (OSError, ValueError):  # not there, or damaged: asked for and written anew
            return None

    def _write_cache(self, request: _Request, scores: Scores) -> None:
        if self.cache_dir is None:
            return
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.cache_dir, suffix=".writing", delete=False) as file:
                json.dump(scores, file)
            os.replace(file.name, self.cache_dir / f"{request.key}.json")
        except OSError as error:  # a full disk costs money, not the run
            logger.warning("A judgement could not be written to the cache: %s", error)

    def _log(self, log_metric: Callable[[str, float], None], cost: float, cache_hits: int) -> None:
        """Logs a call that began at this cost and these cache hits."""
        name = self.__name__
        log_metric(f"{name}/cost", self.cost - cost)
        log_metric(f"{name}/cache_hits", float(self.cache_hits - cache_hits))
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
                f"{self.max_failure_share:.0%}). Last error: {self._last_error} | Check that {self._shown_url} serves "
                f"{self.model!r} to this key; for an endpoint that is only slow or busy raise timeout, deadline or "
                f"retries, or lower concurrency."
            )
