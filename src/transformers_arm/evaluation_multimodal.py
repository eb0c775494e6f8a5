"""Scores an ARM on held-out scenes: generation, editing and understanding, as the demo, the card and trainers print.

Knows nothing about where a model comes from or what becomes of its scores.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from .data.shapes import Canvas
from .data.world_tasks import STORY
from .detokenizer_arm_pixel import ArmPixelDetokenizer
from .evaluation import DEFAULT_CANVAS, EVALUATION_SEED, HARD_CANVAS
from .metrics.arm_editing.arm_editing import editing_scores
from .metrics.arm_generation.arm_generation import generation_scores
from .metrics.arm_understanding.arm_understanding import understanding_scores
from .modeling_arm import ArmForCausalLM
from .pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline, batched, load_detokenizer
from .processing_arm import ArmProcessor
from .shapes.draw import render_scene
from .shapes.edits import EDIT_KINDS, Edit, sample_editing_pair
from .shapes.prompts import GENERATION_TASKS, generation_prompts
from .shapes.questions import (
    NEGATIVES,
    QUESTION_KINDS,
    Question,
    questions,
    sample_existence_question,
    sample_question,
)
from .shapes.reader import read_scene
from .shapes.scene import Scene, sample_scene

UNGUIDED = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
READERS = {"": read_scene}
BATCH_SIZE = 50
STORY_TOKENS = 120


@dataclass
class Arm:
    """A model with what feeds it and what renders its pictures; each method takes lists and keeps their order."""

    model: ArmForCausalLM
    processor: ArmProcessor
    detokenizer: ArmPixelDetokenizer

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Arm":
        """Loads a complete ARM folder, in fp32."""
        model = ArmForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return cls(model, ArmProcessor.from_pretrained(folder), load_detokenizer(str(folder)))

    def _pipeline(self, pipeline_class):
        return pipeline_class(
            self.model, processor=self.processor, detokenizer=self.detokenizer, device=self.model.device
        )

    def draw(self, prompts: Sequence[str], canvas: Canvas = DEFAULT_CANVAS, *, seed: int = 0, **kwargs) -> list:
        """A picture for each prompt; kwargs as the text-to-image pipeline's."""
        size = {"height": canvas.height, "width": canvas.width}
        return self._pipeline(ArmTextToImagePipeline)(
            list(prompts), batch_size=BATCH_SIZE, generator=torch.Generator().manual_seed(seed), **size, **kwargs
        )

    def edit(
        self, images: Sequence, prompts: Sequence[str], canvas: Canvas = DEFAULT_CANVAS, *, seed: int = 0, **kwargs
    ) -> list[Image.Image]:
        """Each picture edited as its instruction says; kwargs as the image-editing pipeline's."""
        size = {"height": canvas.height, "width": canvas.width}
        generator = torch.Generator().manual_seed(seed)
        return self._pipeline(ArmImageEditingPipeline)(
            list(images), list(prompts), batch_size=BATCH_SIZE, generator=generator, **size, **kwargs
        )

    def answer(
        self,
        images: Sequence,
        prompts: Sequence[str],
        canvas: Canvas = DEFAULT_CANVAS,
        *,
        question_first: bool = False,
    ) -> list[str]:
        """The answer to a question about each picture, by greedy decoding; the picture stands before its question
        unless `question_first`.
        """
        answers = []
        pairs = list(zip(images, prompts, strict=True))
        for batch in batched(tqdm(pairs, desc="answering", leave=False), BATCH_SIZE):
            conversations = []
            for image, prompt in batch:
                content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
                conversations.append([{"role": "user", "content": content[::-1] if question_first else content}])
            inputs = self.processor.apply_chat_template(
                conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "size": {"height": canvas.height, "width": canvas.width}},
            ).to(self.model.device)
            written = self.model.generate(**inputs, do_sample=False)
            answers += self.processor.batch_decode(
                written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
        return answers

    def tell(self, caption: str) -> list[str | Image.Image]:
        """The story of a caption, by greedy decoding: texts and pictures in the order the model writes them."""
        request = [{"role": "user", "content": [{"type": "text", "text": STORY + caption}]}]
        inputs = self.processor.apply_chat_template(
            request, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        sequences = self.model.generate(
            **inputs, generation_mode="interleaved", do_sample=False, max_new_tokens=STORY_TOKENS
        )
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        return [
            part if isinstance(part, str) else self._render(part, generator)
            for part in self.processor.decode_interleaved(sequences[0, inputs["input_ids"].shape[1] :])
        ]

    def _render(self, codes: torch.LongTensor, generator: torch.Generator) -> Image.Image:
        """The picture of codes [h, w]."""
        z_q = self.model.vq_model.decode_codes(codes[None].to(self.model.device))
        return self.detokenizer(z_q, generator=generator).images[0]


def editing_pairs(
    count: int, *, seed: int, split: str = "test", max_jitter: int = 0, held_out_pairs: bool | None = False
) -> list[Edit]:
    """Editing pairs, all kinds equally often."""
    rng = random.Random(f"{seed}/editing")
    kinds = [EDIT_KINDS[index % len(EDIT_KINDS)] for index in range(count)]
    return [
        sample_editing_pair(rng, kind, split, max_jitter=max_jitter, held_out_pairs=held_out_pairs) for kind in kinds
    ]


def question_pairs(count: int, *, seed: int, split: str = "test", max_jitter: int = 0) -> list[tuple[Scene, Question]]:
    """Scenes with a question each, all kinds equally often; existence questions take turns in their negatives, and
    then in yes and no, as POPE has as many of both.
    """
    rng = random.Random(f"{seed}/questions")
    pairs = []
    while len(pairs) < count:
        kind = QUESTION_KINDS[len(pairs) % len(QUESTION_KINDS)]
        scene = sample_scene(rng, split=split, max_jitter=max_jitter)
        if kind not in {question.kind for question in questions(scene)}:
            continue
        if kind == "existence":
            turn, negatives = divmod(len(pairs) // len(QUESTION_KINDS), len(NEGATIVES))
            answer = ("yes", "no")[turn % 2]
            asked = sample_existence_question(rng, scene, negatives=NEGATIVES[negatives], answer=answer)
        else:
            asked = sample_question(rng, scene, kind)
        pairs.append((scene, asked))
    return pairs


def _by_reader(readers: Mapping[str, Callable], score: Callable) -> dict[str, float]:
    return {prefix + name: value for prefix, read in readers.items() for name, value in score(read).items()}


def generation(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    tasks: Sequence[str] = (*GENERATION_TASKS, "full", "composition"),
    readers: Mapping[str, Callable] = READERS,
    **kwargs,
) -> dict[str, float]:
    """Shares of right pictures: GenEval's six tasks (`count` prompts in all) and their mean, and `count` prompts each
    of `"full"` and `"composition"`; by each reader, whose name stands before those of its scores.
    """
    prompts, names = [], []
    for task in tasks:
        each = -(-count // len(GENERATION_TASKS)) if task in GENERATION_TASKS else count
        prompts += generation_prompts(task, each, seed=seed, split=split)
        names += [task] * each
    drawn = arm.draw(prompts, canvas, seed=seed, **kwargs)
    return _by_reader(readers, lambda read: generation_scores(drawn, prompts, names, read))


def editing(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    readers: Mapping[str, Callable] = READERS,
    **kwargs,
) -> dict[str, float]:
    """`editing_scores` over `count` pairs; by each reader, whose name stands before those of its scores."""
    pairs = editing_pairs(count, seed=seed, split=split, max_jitter=canvas.max_jitter)
    sources = [render_scene(pair.source, canvas.height, canvas.width) for pair in pairs]
    scenes, instructions = [pair.source.to_json() for pair in pairs], [pair.instruction for pair in pairs]
    edited = arm.edit(sources, instructions, canvas, seed=seed, **kwargs)
    return _by_reader(readers, lambda read: editing_scores(edited, scenes, instructions, read))


def understanding(
    arm: Arm,
    canvas: Canvas = DEFAULT_CANVAS,
    *,
    count: int = 300,
    seed: int = EVALUATION_SEED,
    split: str = "test",
    **kwargs,
) -> dict[str, float]:
    """`understanding_scores` over `count` questions; kwargs as `Arm.answer`'s."""
    pairs = question_pairs(count, seed=seed, split=split, max_jitter=canvas.max_jitter)
    images = [render_scene(scene, canvas.height, canvas.width) for scene, _ in pairs]
    asked = [question for _, question in pairs]
    answers = arm.answer(images, [question.question for question in asked], canvas, **kwargs)
    return understanding_scores(
        answers,
        [question.answer for question in asked],
        [question.kind for question in asked],
        [question.negatives for question in asked],
    )


def multimodal_scores(arm: Arm, *, count: int = 300, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """All scores of an ARM on held-out items, flat, by name: as its folder samples, without guidance, and on the hard
    variant. `count` items a row; each of GenEval's six tasks has a sixth of it.
    """
    settings = {"count": count, "seed": seed}
    variants = (("", DEFAULT_CANVAS, {}), ("unguided_", DEFAULT_CANVAS, UNGUIDED), ("hard_", HARD_CANVAS, {}))
    scores = {}
    for prefix, canvas, sampling in variants:
        drawn = generation(arm, canvas, **settings, **sampling)
        edited = editing(arm, canvas, **settings, **sampling)
        found = {
            "generation": drawn["overall"],
            "generation_full": drawn["full"],
            "generation_composition": drawn["composition"],
            "editing_exact": edited["exact"],
        }
        if not prefix:
            found |= {f"generation_{task}": drawn[task] for task in GENERATION_TASKS}
            found |= {f"editing_{name}": edited[name] for name in ("sc", "pq", "o")}
            kinds = [kind for kind in EDIT_KINDS if f"{kind}_exact" in edited]  # few items hold few kinds
            found |= {f"editing_{kind}": edited[f"{kind}_exact"] for kind in kinds}
        if not sampling:
            answered = understanding(arm, canvas, **settings)
            found["understanding"] = answered["overall"]
            if not prefix:
                found |= {f"understanding_{name}": score for name, score in answered.items() if name != "overall"}
                found["understanding_question_first"] = understanding(arm, question_first=True, **settings)["overall"]
        scores |= {prefix + name: value for name, value in found.items()}
    return scores
