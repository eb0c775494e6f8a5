"""Callbacks that show, during training, what the tokenizer makes of pictures and what ARM does with them.

They look on the main process, in whose logs, files and reporters all lands (`reporting.py`), and leave the training as
it would be without them. Each takes its trainer: `trainer.add_callback(SamplesCallback(trainer, ...))`. Where FSDP2
shards the weights, all processes gather them first (`sharding.whole_weights`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageOps
from transformers import Trainer, TrainerCallback

from ..data.collators import to_pixel_values
from ..data.columns import SOURCES, read_picture, read_text, undecoded
from ..data.conversations import is_codes, message
from ..data.folders import load_files
from ..data.pictures import fetcher_for
from ..data.row_errors import row_error
from ..data.world import World
from ..detokenizer_arm import ArmDetokenizer
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..evaluation.arm import Arm
from ..evaluation.retrieval import retrieval
from ..evaluation.sheets import picture_sheet
from ..fetching_arm import FROM_CALLER, Fetcher
from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq import encoded_by_size
from ..pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline, batched
from .reporting import log_samples, log_scores
from .sharding import check_can_be_looked_at, whole_weights

SAMPLE_BATCH = 8  # rows that are drawn, edited or answered together
SAMPLE_SIDE = 384  # px of a picture on a sheet of samples, its longer side
SHEET_COLUMNS = 16  # pictures on a sheet of reconstructions
RECONSTRUCTED_PIXELS = 2**22  # that are reconstructed together: 16 pictures of 512x512


class LookCallback(TrainerCallback):
    """Every `every` steps a look at the model, whole and without adapters' wrapping: `look(model)`, which logs what it
    sees.

    Args:
        trainer: whose training is looked at.
        every: steps between two looks.

    Raises:
        ValueError: weights that ZeRO-3 or FSDP1 shard.
    """

    def __init__(self, trainer: Trainer, every: int):
        check_can_be_looked_at(trainer)
        self.trainer, self.every = trainer, every

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every:
            return
        with self.whole(model) as whole:
            if state.is_world_process_zero:
                with torch.no_grad(), torch.random.fork_rng():
                    self.look(whole)

    def whole(self, model: torch.nn.Module) -> AbstractContextManager[torch.nn.Module]:
        """The model that is looked at meanwhile; all processes enter."""
        return whole_weights(model)

    def look(self, model: torch.nn.Module) -> None:
        raise NotImplementedError


class ReconstructionCallback(LookCallback):
    """Every `every` steps: PSNR, retrieval (the share of reconstructions that are nearest to their own original among
    all of its size), codes in use and, of a world's pictures, what it reads of them, in the log; and a sheet of
    originals above reconstructions, `reconstructions`.

    Args:
        trainer: whose training is looked at; its model has a `vq_model` and a `pixel_transformer`.
        source: a world, which draws pictures, never of the test split, so that no recipe is tuned on it; or held-out
            samples with `image`, uint8 [H, W, 3], of any sizes that the model takes.
        every: steps between two looks.
        pictures: number of pictures; of held-out ones the first, or all where there are fewer.
        steps: Euler steps of the rendering.
        seed: of a world's pictures, and of noise.

    Raises:
        ValueError: there are no pictures.
    """

    def __init__(
        self,
        trainer: Trainer,
        source: World | Iterable[Mapping],
        every: int = 500,
        pictures: int = 128,
        steps: int = 4,
        seed: int = 900001,
    ):
        super().__init__(trainer, every)
        self.world = source if isinstance(source, World) else None
        if self.world is None:
            self.samples = list(islice(source, pictures))
        else:
            data = source.pictures(pictures, seed=seed, batch_size=pictures)
            self.samples = [data[index] for index in range(pictures)]
        self.images = [sample["image"] for sample in self.samples]
        if not self.images:
            raise ValueError(
                f"There are no pictures to reconstruct, of {pictures}; hold out some, or ask for 1 or more."
            )
        self.steps, self.seed = steps, seed

    def look(self, model):
        training = model.training
        model.eval()
        drawn, found = self.reconstructed(model)
        model.train(training)
        errors = [np.square(new.astype(float) - old).mean() for new, old in zip(drawn, self.images, strict=True)]
        scores = {
            "eval_psnr": round(float(np.mean(10 * np.log10(255**2 / np.clip(errors, 1e-5, None)))), 2),
            "eval_retrieval": retrieval(drawn, self.images),
            **{f"eval_{name}": value for name, value in found.items()},
        }
        read = {} if self.world is None else self.world.reconstruction_scores(np.stack(drawn), np.stack(self.images))
        scores |= {f"eval_{name}": value for name, value in read.items()}
        log_scores(self.trainer, {name: round(value, 4) for name, value in scores.items()})
        rows = [[Image.fromarray(image) for image in images[:SHEET_COLUMNS]] for images in (self.images, drawn)]
        if len({image.size for image in rows[0]}) > 1:
            rows = [[ImageOps.pad(each, (SAMPLE_SIDE, SAMPLE_SIDE), color="white") for each in row] for row in rows]
        log_samples(self.trainer, "reconstructions", picture_sheet(rows))

    def detokenizer_of(self, model) -> ArmDetokenizer:
        """What renders the pictures, without a progress bar."""
        detokenizer = ArmPixelDetokenizer(model.pixel_transformer, FlowMatchEulerDiscreteScheduler())
        detokenizer.set_progress_bar_config(disable=True)
        return detokenizer

    def reconstructed(self, model) -> tuple[list[np.ndarray], dict[str, float]]:
        """What the pictures become, those of one size together, and further scores by name."""
        detokenizer = self.detokenizer_of(model)
        generator, codes = torch.Generator().manual_seed(self.seed), []

        def reconstruct(alike: list[np.ndarray]) -> Iterator[np.ndarray]:
            for images in batched(alike, max(1, RECONSTRUCTED_PIXELS // alike[0][..., 0].size)):
                encoded = model.vq_model.encode(to_pixel_values(images).to(model.device))
                codes.append(encoded.codes.flatten())
                pictures = detokenizer(encoded.z_q, None, self.steps, 1.0, generator, output_type="np").images
                yield from (pictures * 255).round().astype(np.uint8)

        return encoded_by_size(self.images, reconstruct), {"codes_used": len(torch.cat(codes).unique())}


class WorldScoresCallback(LookCallback):
    """Every `every` steps: a world's scores of the model in the log, and a sheet of what it draws, `samples`; see
    `World.look`.

    Args:
        trainer: whose training is looked at.
        world: which.
        processor, detokenizer: what turns requests into tokens and tokens into pictures.
        every: steps between two looks.
        count: items a score; never of the test split, so that no recipe is tuned on it.
        seed: of the items.
    """

    def __init__(
        self,
        trainer: Trainer,
        world: World,
        processor,
        detokenizer,
        every: int = 2000,
        count: int = 100,
        seed: int = 900002,
    ):
        super().__init__(trainer, every)
        self.world, self.processor, self.detokenizer = world, processor, detokenizer
        self.count, self.seed = count, seed

    def look(self, model):
        arm = Arm(model, self.processor, self.detokenizer)
        scores, sheet = self.world.look(arm, count=self.count, seed=self.seed)
        log_scores(self.trainer, {f"eval_{name}": round(value, 4) for name, value in scores.items()})
        if sheet is not None:
            log_samples(self.trainer, "samples", sheet)


def load_rows(rows: list | str | dict) -> Iterable[Mapping]:
    """The `rows` of a recipe's `samples` section.

    Args:
        rows: the rows themselves, the name of a JSON or YAML file that lists them, or arguments of `load_files`.

    Raises:
        ValueError: what the file holds is no list.
    """
    if isinstance(rows, dict):
        return undecoded(load_files(**rows))
    if isinstance(rows, list):
        return rows
    text = Path(rows).read_text(encoding="utf-8")
    found = json.loads(text) if Path(rows).suffix == ".json" else yaml.safe_load(text)
    if not isinstance(found, list):
        raise ValueError(f"{rows} holds a {type(found).__name__}, but must hold a list of rows; start each with '- '.")
    return found


def read_sample(row: Mapping, index: int, fetcher: Fetcher = FROM_CALLER) -> dict:
    """A row of `SamplesCallback` -> its `prompt` or `question`, and its `image`, RGB, where it has one.

    Raises:
        ValueError: it has both or none of the two, or a picture that cannot be read or is not called as it must be;
            names the row.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"Row {index} is {row!r}, but must be a dict, with a 'prompt' or a 'question'.")
    asked = [column for column in ("prompt", "question") if row.get(column) is not None]
    if len(asked) != 1:
        problem = "a 'prompt' asks for a picture, a 'question' for a text. Fill in one of the two."
        raise row_error(index, "prompt", problem)
    own, *others = (*SOURCES, "image") if asked == ["prompt"] else ("image", *SOURCES)
    for column in others:
        if row.get(column) is not None:
            problem = "a 'prompt' edits one 'source_image', a 'question' is about one 'image'. Rename or drop it."
            raise row_error(index, column, problem)
    sample = {asked[0]: read_text(row, index, asked[0])}
    if row.get(own) is not None:
        sample["image"] = read_picture(row[own], index, own, fetcher=fetcher)
        if is_codes(sample["image"]):
            raise row_error(index, own, "sheets show pictures, and codes are none. Give the picture.")
    return sample


class SamplesCallback(LookCallback):
    """Every `every` steps: pictures drawn and edited as rows of your own ask for, on a labelled sheet, and lines of
    text, the sheet's prompts and the answers to questions; both `requests`.

    A row's `prompt` asks for a picture, or for an edit of its `source_image`; a row's `question` asks for a text,
    about its `image` if it has one. Pictures are whatever `read_picture` takes. Each row has a generator of its own,
    and answers are greedy, so that looks differ by the weights alone.

    Args:
        trainer: whose training is looked at.
        processor: the model's `ArmProcessor`.
        rows: dicts.
        every: steps between two looks.
        detokenizer: renders the tokens; without one, questions alone are answered.
        max_new_tokens: most tokens of an answer.
        seed: of the pictures.
        local_files: whether rows of files that `datasets` loads may name local pictures, see `fetcher_for`.

    Raises:
        ValueError: a row that cannot be used; nothing to show; or as `LookCallback`.
    """

    def __init__(
        self,
        trainer: Trainer,
        processor,
        rows: Iterable[Mapping],
        every: int = 1000,
        detokenizer: ArmDetokenizer | None = None,
        max_new_tokens: int = 64,
        seed: int = 900003,
        local_files: bool = False,
    ):
        super().__init__(trainer, every)
        fetcher = fetcher_for(rows, local_files)
        samples = [read_sample(row, index, fetcher) for index, row in enumerate(rows)]
        self.questions = [sample for sample in samples if "question" in sample]
        prompts = [sample for sample in samples if "prompt" in sample and detokenizer is not None]
        self.edits = [sample for sample in prompts if "image" in sample]
        self.drawings = [sample for sample in prompts if "image" not in sample]
        if not (self.questions or prompts):
            raise ValueError(
                f"Of {len(samples)} rows none can be shown: add a detokenizer, which draws, or rows with a 'question'."
            )
        self.processor, self.detokenizer = processor, detokenizer
        self.max_new_tokens, self.seed = max_new_tokens, seed

    def look(self, model):
        pictures, answers = self._pictures(model), self._answers(model)
        prompts = [sample["prompt"] for sample in (*self.drawings, *self.edits)]
        sources = [[]] * len(self.drawings) + [[sample["image"]] for sample in self.edits]
        rows = [[*source, picture] for source, picture in zip(sources, pictures, strict=True)]
        tiles = [[ImageOps.pad(each, (SAMPLE_SIDE, SAMPLE_SIDE), color="white") for each in row] for row in rows]
        lines = [f"{each['question']} -> {answer}" for each, answer in zip(self.questions, answers, strict=True)]
        sheet = picture_sheet(tiles, prompts) if tiles else None
        log_samples(self.trainer, "requests", sheet, [*prompts, *lines])

    def _pictures(self, arm: ArmForCausalLM) -> list[Image.Image]:
        """What is drawn, and then what is edited."""
        pictures, parts = [], {"processor": self.processor, "detokenizer": self.detokenizer, "device": arm.device}
        prompts = [sample["prompt"] for sample in self.drawings]
        for pipeline, requests in ((ArmTextToImagePipeline, prompts), (ArmImageEditingPipeline, self.edits)):
            if requests:
                generators = [torch.Generator().manual_seed(self.seed + number) for number in range(len(requests))]
                pictures += pipeline(arm, **parts)(requests, batch_size=SAMPLE_BATCH, generator=generators)
        return pictures

    def _answers(self, arm: ArmForCausalLM) -> list[str]:
        """The answers to all questions, on one line each."""
        answers = []
        for samples in batched(self.questions, SAMPLE_BATCH):
            asked = [[sample[column] for column in ("image", "question") if column in sample] for sample in samples]
            inputs = self.processor.apply_chat_template(
                [[message("user", *parts)] for parts in asked],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            ).to(arm.device)
            sequences = arm.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
            texts = self.processor.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            answers += [" ".join(text.split()) for text in texts]
        return answers
