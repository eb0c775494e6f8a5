"""A complete ARM as evaluations ask it: lists of requests in, lists of pictures and answers out, in order.

Knows nothing about what is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import StoppingCriteria

from ..detokenizer_arm import ArmDetokenizer
from ..interleaved_pipeline_arm import ArmInterleavedPipeline
from ..modeling_arm import ArmForCausalLM
from ..pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline, batched
from ..processing_arm import ArmProcessor
from ..renderers_arm import load_detokenizer
from ..sampling_arm import IMAGE_EDITING
from .tokenizer import Tokenizer

BATCH_SIZE = 50


class Written(StoppingCriteria):
    """Stops when so many tokens, the prompt's among them, are there."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        return input_ids.new_full(input_ids.shape[:1], input_ids.shape[1] >= self.tokens, dtype=torch.bool)


@dataclass
class Arm:
    """A model with what feeds it and what renders its pictures; each method takes lists and keeps their order.

    A model that is only asked needs no `detokenizer`, None.
    """

    model: ArmForCausalLM
    processor: ArmProcessor
    detokenizer: ArmDetokenizer | None

    def __post_init__(self):
        if self.detokenizer is not None:
            self.detokenizer.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Arm":
        """Loads a complete ARM folder, in fp32."""
        model = ArmForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        hub = model.hub_options
        return cls(model, ArmProcessor.from_pretrained(folder, **hub), load_detokenizer(str(folder), **hub))

    @property
    def tokenizer(self) -> Tokenizer:
        """The visual tokenizer inside, and what renders its tokens: the ceiling of all that is drawn."""
        self.detokenizer.vq_model = self.model.vq_model
        return Tokenizer(self.model.vq_model, self.processor.image_processor, self.detokenizer)

    @property
    def max_pixels(self) -> int:
        """The most px of a picture that the folder says it knows at the picture's own shape; where it says that it
        knows the processor's size alone, those of that.
        """
        size = self.processor.image_processor.size
        settings = {**IMAGE_EDITING, **(getattr(self.model.generation_config, "image_editing", None) or {})}
        own = settings["max_pixels"] if settings["keep_aspect_ratio"] else None
        return size["height"] * size["width"] if own is None else own

    def _pipeline(self, pipeline_class):
        return pipeline_class(
            self.model, processor=self.processor, detokenizer=self.detokenizer, device=self.model.device
        )

    def draw(self, prompts: Sequence[str], *, seed: int = 0, **kwargs) -> list:
        """A picture for each prompt; kwargs as the text-to-image pipeline's."""
        return self._pipeline(ArmTextToImagePipeline)(
            list(prompts), batch_size=BATCH_SIZE, generator=torch.Generator().manual_seed(seed), **kwargs
        )

    def edit(self, images: Sequence, prompts: Sequence[str], *, seed: int = 0, **kwargs) -> list[Image.Image]:
        """Each picture edited as its instruction says; kwargs as the image-editing pipeline's."""
        generator = torch.Generator().manual_seed(seed)
        return self._pipeline(ArmImageEditingPipeline)(
            list(images), list(prompts), batch_size=BATCH_SIZE, generator=generator, **kwargs
        )

    def answer(
        self, images: Sequence, prompts: Sequence[str], *, question_first: bool = False, **size: int
    ) -> list[str]:
        """The answer to a question about each picture, by greedy decoding; the picture stands before its question
        unless `question_first`. It is read at `height` x `width` px, or else at the processor's size.
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
                processor_kwargs={"padding": True, **({"size": size} if size else {})},
            ).to(self.model.device)
            written = self.model.generate(**inputs, do_sample=False)
            answers += self.processor.batch_decode(
                written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
        return answers

    def opened_sizes(self, prompts: Sequence[str]) -> list[tuple[int, int] | None]:
        """Height and width in px of the picture that the model, free to write and to draw, answers each prompt with,
        by greedy decoding; None where its answer does not begin with one.
        """
        config, patch, sizes = self.model.config, self.processor.image_processor.patch_size, []
        opening = len(config.image_opening(1, 1))
        for batch in batched(tqdm(list(prompts), desc="opening", leave=False), BATCH_SIZE):
            inputs = self.processor.apply_chat_template(
                [[{"role": "user", "content": prompt}] for prompt in batch],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            ).to(self.model.device)
            read = inputs["input_ids"].shape[1]
            written = self.model.generate(
                **inputs,
                generation_mode="interleaved",
                do_sample=False,
                max_new_tokens=config.max_position_embeddings - read,  # no picture is opened that would not fit
                stopping_criteria=[Written(read + opening)],
            )
            for opened in written[:, read:]:
                stated = len(opened) == opening and bool(config.states_width(opened[-1:]))
                grid = opened[1:] - torch.tensor([config.shape_token_offset, config.width_token_offset]) + 1
                sizes.append(tuple((grid * patch).tolist()) if stated else None)
        return sizes

    def tell(self, prompt: str, *, max_new_tokens: int, seed: int = 0) -> list[str | Image.Image]:
        """An answer in text and pictures, by greedy decoding: its parts in the order the model writes them."""
        tell = ArmInterleavedPipeline(self.model, processor=self.processor, detokenizer=self.detokenizer)
        greedy = {"generate_kwargs": {"do_sample": False}, "do_sample": False}
        generator = torch.Generator().manual_seed(seed)
        parts = tell(prompt, max_new_tokens=max_new_tokens, generator=generator, **greedy)
        return [part[part["type"]] for part in parts]
