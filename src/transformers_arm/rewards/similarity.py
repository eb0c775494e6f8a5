"""Rewards how well a picture fits a text, by a frozen two-tower model: CLIP, SigLIP, SigLIP2, PickScore.

Such models load with transformers alone. Knows nothing about what ARM was asked beyond that text.
"""

import os

import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, AutoProcessor, BatchEncoding, PreTrainedModel, ProcessorMixin

from ..data.collators import siglip_input_ids

_TOWERS = ("get_image_features", "get_text_features")


class ImageTextSimilarity:
    """Similarity of each picture to its text, -1..1; a reward for `ArmGRPOTrainer` and a function of its own.

    The text is the prompt of a text-to-image sample. An editing prompt is an instruction, which describes no picture:
    such a sample is judged only if the dataset column `text_column` describes the picture wanted. Where that column
    is given it is the text, whatever the task.

    PickScore is published as a CLIP without a processor: name the folder of the CLIP it was tuned from as `processor`,
    and set `scaled` for its unit.

    Args:
        model: a CLIP-like model, or its folder or id. It is frozen. By id it loads from safetensors only, and without
            code of its own.
        processor: image processor and tokenizer, or their folder or id; None takes those beside the model.
        scaled: multiplies the cosine by the model's `logit_scale.exp()` (about 100 in a trained CLIP). SigLIP's bias,
            the same for all, is left out.
        device: None takes the accelerator of this process at the first call, else the CPU.
        dtype: of a model loaded here; "auto" is that of its weights. Similarities are float32 at any rate.
        batch_size: pictures and texts that pass through the towers at once.
        revision: of a model and a processor loaded by id from the same place; another processor loads its newest.
        text_column: the dataset column that describes the wanted picture; None in it falls back to the prompt.

    Raises:
        ValueError: a model without an image tower or a text tower, or no processor found.
    """

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel,
        processor: str | os.PathLike | ProcessorMixin | None = None,
        *,
        scaled: bool = False,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        batch_size: int = 16,
        revision: str | None = None,
        text_column: str = "target_prompt",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1; pass how many pictures the model takes at once.")
        self.scaled, self.device, self.batch_size, self.text_column = scaled, device, batch_size, text_column
        if isinstance(model, PreTrainedModel):
            self.model, source = model, None
        else:
            self.model = AutoModel.from_pretrained(model, dtype=dtype, revision=revision, use_safetensors=True)
            source = model
        missing = [name for name in _TOWERS if not hasattr(self.model, name)]
        if missing:
            raise ValueError(
                f"{type(self.model).__name__} has no {' and no '.join(missing)}; pass a model with an image tower and "
                "a text tower, such as CLIPModel or SiglipModel."
            )
        self.model.requires_grad_(False).eval()
        self.processor = _load_processor(
            source if processor is None else processor, revision if processor is None else None
        )
        # SigLIP was trained on lower-case texts padded to full length without a mask, and pools the last position.
        self._is_siglip = self.model.config.model_type.startswith("siglip")
        self.__name__ = f"similarity_{os.path.basename(str(self.model.name_or_path)) or type(self.model).__name__}"

    def __call__(
        self, *, prompts: list[str], images: list[Image.Image], task: list[str], **columns
    ) -> list[float | None]:
        """One similarity a sample; None where no text describes the picture wanted."""
        wanted = columns.get(self.text_column) or [None] * len(prompts)
        texts = [
            prompt if text is None and kind == "text_to_image" else text
            for prompt, text, kind in zip(prompts, wanted, task, strict=True)
        ]
        judged = [index for index, text in enumerate(texts) if text is not None]
        rewards = [None] * len(texts)
        for start in range(0, len(judged), self.batch_size):
            batch = judged[start : start + self.batch_size]
            values = self.similarity([images[index] for index in batch], [texts[index] for index in batch])
            for index, value in zip(batch, values.tolist(), strict=True):
                rewards[index] = value
        return rewards

    @torch.inference_mode()
    def similarity(self, images: list[Image.Image], texts: list[str]) -> torch.Tensor:
        """N pictures and their N texts -> float32 [N]: cosines, or scaled ones. All pass through at once."""
        device = self.device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        self.model.to(device)
        pictures = self.processor.image_processor([image.convert("RGB") for image in images], return_tensors="pt")
        pictures = pictures.to(device)
        pictures["pixel_values"] = pictures["pixel_values"].to(self.model.dtype)
        image_features = self.model.get_image_features(**pictures).pooler_output.float()
        text_features = self.model.get_text_features(**self._tokenize(texts).to(device)).pooler_output.float()
        cosines = nn.functional.cosine_similarity(image_features, text_features)
        return cosines * self.model.logit_scale.float().exp() if self.scaled else cosines

    def _tokenize(self, texts: list[str]):
        longest = self.model.config.text_config.max_position_embeddings
        if self._is_siglip:
            return BatchEncoding({"input_ids": siglip_input_ids(self.processor.tokenizer, texts, longest)})
        settings = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        return self.processor.tokenizer(texts, **settings)


def _load_processor(source: str | os.PathLike | ProcessorMixin | None, revision: str | None) -> ProcessorMixin:
    processor, cause = source, None
    if isinstance(source, str | os.PathLike):
        try:
            processor = AutoProcessor.from_pretrained(source, revision=revision)
        except (OSError, ValueError) as error:
            processor, cause = None, error
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        where = (
            f"no image processor with a tokenizer in {source}"
            if isinstance(source, str | os.PathLike)
            else "no processor"
        )
        raise ValueError(
            f"There is {where}; pass processor= with the folder or id of the model that this one was tuned from, "
            "or a loaded CLIPProcessor or SiglipProcessor."
        ) from cause
    return processor
