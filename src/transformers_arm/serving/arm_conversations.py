"""Answers of an ARM, written in batches: texts in slices of so many tokens, after each of which answers wait in line
again, and pictures as all others are drawn. What an answer is does not depend on those beside it.

Knows nothing about lines and events.
"""

from collections.abc import Sequence

import torch
from PIL.Image import Image
from transformers import LogitsProcessor, StoppingCriteria, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.streamers import BaseStreamer, TextStreamer

from ..configuration_arm import MAX_GRID_SIDE, ArmConfig
from ..grammar_arm import ImageGrammarLogitsProcessor, TextGrammarLogitsProcessor
from ..pipeline_arm import ArmImagePipeline
from ..prompts_arm import stack_left_padded, whole_pictures
from ..sampling_arm import LEAST_TEMPERATURE
from .arm_drawing import DrawingJob, with_pictures
from .engine import ConversationRequest, Finished, InvalidRequest, Text, Usage
from .waiting import Answer

SLICE = 64  # tokens of text, after which others may go on
ANY_PICTURE = MAX_GRID_SIDE**2 + 5  # tokens of the largest one, from its start to its end


class Pieces(TextStreamer):
    """Hands on text as soon as it is sure."""

    def __init__(self, tokenizer, answer: Answer):
        super().__init__(tokenizer, skip_special_tokens=True)
        self.answer = answer

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.answer.put(Text(text))


class AnswerJob(DrawingJob):
    """An answer to a conversation: it writes, and where it has opened a picture, it draws that, and writes on.

    Args:
        inputs: of the conversation, as the processor gives them.
        most: tokens of the answer.
        seed, settings: of what is drawn; the seed of what is written, too.
    """

    def __init__(
        self,
        answer: Answer,
        request: ConversationRequest,
        pipe: ArmImagePipeline,
        inputs: dict,
        most: int,
        seed: int,
        settings: dict,
    ):
        super().__init__(answer)
        self.config, self.given, self.most, self.seed = pipe.model.config, inputs, most, seed
        self.pictures, self.previews, self.settings = request.pictures, request.previews, settings
        self.grid, self.ids, self.counts, self.number = None, None, [0, 0, 0, 0], 0
        self.pieces = Pieces(pipe.processor.tokenizer, answer)
        ends = pipe.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self.warpers = warpers(request, pipe.model.generation_config)
        self.writing_generator, self.drawing_generator = (torch.Generator().manual_seed(seed) for _ in range(2))

    @property
    def key(self):
        if self.grid is None:
            return ("write", self.pictures)
        shown = bool(whole_pictures(self.config, self.ids[:-3]))  # by which branches of guidance go
        return ("draw", self.grid, "answer", shown, tuple(sorted(self.settings.items())))

    @property
    def writes(self) -> bool:
        return self.wanted and self.grid is None

    def read(self, pipe: ArmImagePipeline) -> list[int]:
        """Ids of the conversation and of what the answer has so far."""
        if self.ids is None:
            self.ids = with_pictures(pipe, self.given)["input_ids"][0].tolist()
            self.counts[:2] = counted(self.config, self.ids)
        return self.ids

    # --- texts ----------------------------------------------------------------------------------------------------

    def take(self, token: int) -> None:
        """Takes the next token of the text."""
        self.ids.append(token)
        self.counts[2] += 1
        if token in self.ends:
            self._finish("stop")
        elif self.config.states_width(token):
            height, width = self.config.stated_grid(self.ids)
            if height * width + 1 > self._room:
                return self._finish("length")
            self.pieces.end()
            self.grid, self.shown = (height, width), 0
        else:
            self.pieces.put(torch.tensor([token]))
            if self._room < 1:
                self._finish("length")

    @property
    def _room(self) -> int:
        return self.most - sum(self.counts[2:])

    def _finish(self, reason: str) -> None:
        self.pieces.end()
        self.over = True
        self.answer.put(Finished(reason, Usage(*self.counts)))

    # --- pictures -------------------------------------------------------------------------------------------------

    def inputs(self, pipe: ArmImagePipeline) -> dict[str, torch.Tensor]:
        ids = torch.tensor([self.ids[:-3]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def generator(self) -> torch.Generator:
        self.drawing = self.drawing_generator.clone_state()  # a batch that fails is drawn again
        return self.drawing

    def drawn(self, tokens: list[int], picture: Image, codes: torch.LongTensor) -> None:
        self.ids[-3:] = tokens
        self.counts[2] += 1  # what closes it
        self.counts[3] += codes.numel()
        self.give(picture, codes, self.counts[:2])
        self.grid, self.number, self.drawing_generator = None, self.number + 1, self.drawing
        if self._room < 1:
            self._finish("length")


def counted(config: ArmConfig, ids: list[int]) -> tuple[int, int]:
    """How many of the ids are of text, and of images."""
    of_images = sum(token >= config.visual_token_offset for token in ids)
    return len(ids) - of_images, of_images


def warpers(request: ConversationRequest, config) -> list[LogitsProcessor]:
    """How a text's tokens are sampled, from what a request states and the model's generation config; empty where the
    likeliest is taken.

    Raises:
        InvalidRequest: a temperature below 0, or a top_p that is not in 0..1.
    """
    own = config.temperature if config.do_sample else float(request.top_p is not None)  # which asks for samples
    temperature = (1.0 if own is None else own) if request.temperature is None else request.temperature
    top_p = request.top_p if request.top_p is not None else config.top_p if config.do_sample else None
    if not temperature >= 0:  # nor NaN
        raise InvalidRequest(f"temperature {temperature} must be 0 (takes the likeliest) or more.", "temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidRequest(f"top_p {top_p} must be above 0, and 1 (takes all) at most.", "top_p")
    if temperature < LEAST_TEMPERATURE:
        return []
    chosen = [TemperatureLogitsWarper(float(temperature))]
    if config.do_sample and config.top_k:
        chosen.append(TopKLogitsWarper(config.top_k))
    if top_p is not None and top_p < 1:
        chosen.append(TopPLogitsWarper(float(top_p)))
    return chosen


class Chance(LogitsProcessor):
    """Samples each row by a generator of its own, so that it is independent of the others: numbers of Gumbel's
    distribution are added to its scores, of which the highest is then a sample of their softmax.

    Args:
        grammar: that the samples obey. It comes before top-k and top-p, which keep the likeliest of what is allowed.
    """

    def __init__(self, jobs: Sequence[AnswerJob], grammar: LogitsProcessor):
        self.jobs, self.grammar = jobs, grammar

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores = self.grammar(input_ids, scores)  # a copy
        for row, job in enumerate(self.jobs):
            if not (job.warpers and job.writes):
                continue
            own = scores[row : row + 1, : job.config.visual_token_offset].float()
            for warp in job.warpers:
                own = warp(input_ids[row : row + 1], own)
            chance = -torch.empty(own.shape).exponential_(generator=job.writing_generator).log()
            scores[row : row + 1, : job.config.visual_token_offset] = own + chance.to(own.device)
        return scores


class Slice(BaseStreamer, StoppingCriteria):
    """Hands each row's tokens to its answer, and ends a row that writes no more, and all of them after `SLICE`."""

    def __init__(self, jobs: Sequence[AnswerJob]):
        self.jobs, self.steps = jobs, -1  # the first that comes are the prompts

    def put(self, value: torch.LongTensor) -> None:
        if self.steps >= 0:
            for job, token in zip(self.jobs, value.tolist(), strict=True):
                if job.writes:
                    job.take(token)
        self.steps += 1

    def end(self) -> None:
        pass

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        ended = [self.steps >= SLICE or not job.writes for job in self.jobs]
        return torch.tensor(ended, device=input_ids.device)


def write_together(pipe: ArmImagePipeline, jobs: Sequence[AnswerJob]) -> None:
    """Writes the next slice of answers, each up to its end or its next picture."""
    rows = [torch.tensor([job.read(pipe)]) for job in jobs]
    ids, mask = stack_left_padded([(row, torch.ones_like(row)) for row in rows])
    part, device, pictures = Slice(jobs), pipe.model.device, jobs[0].pictures
    config = pipe.model.config
    grammar = ImageGrammarLogitsProcessor(config) if pictures else TextGrammarLogitsProcessor(config)
    pipe.model.generate(
        ids.to(device),
        attention_mask=mask.to(device),
        generation_mode="interleaved" if pictures else "text",
        # The grammar leaves each picture room, and the answer says whether it has: rows have different bounds.
        max_new_tokens=SLICE + (ANY_PICTURE if pictures else 0),
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        return_dict_in_generate=False,
        logits_processor=[Chance(jobs, grammar)] if any(job.warpers for job in jobs) else [],
        stopping_criteria=[part],
        streamer=part,
    )
