"""Scores a tokenizer and its detokenizer on held-out scenes: what the demo, the model card and the README print."""

import itertools
import os
import platform
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipModel

from .data.shapes import Canvas, ShapesDataset, siglip_input_ids, to_pixel_values
from .data.world_text import ASKED, WorldText
from .detokenizer_arm_pixel import ArmPixelDetokenizer
from .image_processing_arm import ArmImageProcessor
from .metrics.arm_reconstruction.arm_reconstruction import reconstruction_scores
from .metrics.arm_zero_shot.arm_zero_shot import zero_shot_accuracy
from .modeling_arm_vq import ArmVQModel
from .shapes.captions import caption_is_true
from .shapes.draw import HARD_JITTER, HARD_SIDE

EVALUATION_SEED = 20261123
DEFAULT_CANVAS, HARD_CANVAS = Canvas(), Canvas(HARD_SIDE, HARD_SIDE, HARD_JITTER)


def hardware() -> str:
    """What a figure was measured on, for results and cards: the GPU, or else the CPU's cores and torch."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


@dataclass
class Tokenizer:
    """A tokenizer with what turns pictures into its input and its tokens into pictures."""

    model: ArmVQModel
    image_processor: ArmImageProcessor
    detokenizer: ArmPixelDetokenizer

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Tokenizer":
        """Loads `vq_model/` and `detokenizer/` of a folder, in fp32."""
        folder = Path(folder)
        if not (folder / "vq_model" / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no vq_model/config.json; name a folder that hub_cards/export_tiny.py wrote."
            )
        model = ArmVQModel.from_pretrained(folder / "vq_model", dtype=torch.float32).eval()
        detokenizer = ArmPixelDetokenizer.from_pretrained(folder / "detokenizer")
        detokenizer.vq_model = model
        detokenizer.set_progress_bar_config(disable=True)
        return cls(model, ArmImageProcessor.from_pretrained(folder / "vq_model"), detokenizer)

    def reconstruct(self, images: list[np.ndarray], *, seed: int = 0) -> tuple[np.ndarray, list[Image.Image]]:
        """uint8 pictures [H, W, 3] of one size -> codes [N, h, w] and the pictures they give back."""
        codes = self.model.encode(to_pixel_values(images)).codes
        generator = torch.Generator().manual_seed(seed)
        return codes.numpy(), self.detokenizer(codes=codes, generator=generator).images


def _batches(total: int, size: int, what: str):
    return tqdm([range(start, min(start + size, total)) for start in range(0, total, size)], desc=what, leave=False)


def reconstruction(
    tokenizer: Tokenizer, canvas: Canvas = DEFAULT_CANVAS, *, count: int = 500, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """PSNR, read-back, codebook usage and code perplexity on `count` test scenes drawn on `canvas`."""
    data = ShapesDataset(count, batch_size=count, seed=seed, canvases=[canvas], split="test")
    originals, returned, all_codes = [], [], []
    for batch in _batches(count, 100, f"reconstructing {canvas.height}x{canvas.width}"):
        images = [data[index]["image"] for index in batch]
        codes, pictures = tokenizer.reconstruct(images, seed=seed)
        originals += images
        returned += pictures
        all_codes.append(codes)
    return reconstruction_scores(returned, originals, np.concatenate(all_codes), tokenizer.model.config.codebook_size)


def zero_shot(
    tokenizer: Tokenizer,
    siglip_folder: str | Path,
    *,
    count: int = 500,
    candidates: int = 100,
    seed: int = EVALUATION_SEED,
) -> dict[str, float]:
    """Share of test scenes whose caption scores best among `candidates` captions of test scenes.

    The others are captions of other test scenes that are false of the picture. `z_q` and the frozen SigLIP's own
    features pass through the same pooling head and stand before the same captions.
    """
    siglip = SiglipModel.from_pretrained(siglip_folder, dtype=torch.float32).eval()
    text_tokenizer = AutoTokenizer.from_pretrained(siglip_folder)
    data = ShapesDataset(count, batch_size=count, seed=seed, split="test")
    samples, scenes = [data[index] for index in range(count)], [data.scene(index)[0] for index in range(count)]
    captions = [sample["caption"] for sample in samples]
    false = []  # for each scene, captions that are not true of it
    for index, scene in enumerate(scenes):
        others = random.Random(f"{seed}/{index}").sample(range(count), count)
        untrue = (other for other in others if not caption_is_true(captions[other], scene))
        false.append(list(itertools.islice(untrue, candidates - 1)))
    hits = {"z_q": [], "siglip": []}
    with torch.no_grad():
        input_ids = siglip_input_ids(text_tokenizer, captions, siglip.config.text_config.max_position_embeddings)
        text = nn.functional.normalize(siglip.get_text_features(input_ids=input_ids).pooler_output, dim=-1)
        for batch in _batches(count, 100, "zero-shot"):
            encoded = tokenizer.model.encode(to_pixel_values([samples[index]["image"] for index in batch]))
            for name, patches in (("z_q", encoded.z_q), ("siglip", encoded.features)):
                pooled = nn.functional.normalize(siglip.vision_model.head(patches.flatten(1, 2)), dim=-1)
                for index, similarity in zip(batch, pooled @ text.t(), strict=True):
                    hits[name].append(int(similarity[[index, *false[index]]].argmax()))
    return {name: zero_shot_accuracy(found, [0] * count) for name, found in hits.items()}


def text_scores(qwen2_folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Share of exact answers of the language model on held-out scenes told in words, by task of `WorldText`."""
    model = AutoModelForCausalLM.from_pretrained(qwen2_folder, dtype=torch.float32).eval()
    text_tokenizer = AutoTokenizer.from_pretrained(qwen2_folder, padding_side="left")
    end = text_tokenizer.convert_tokens_to_ids("<|im_end|>")
    documents = WorldText(count, seed=seed, split="test")
    turns = [turn for turn in map(documents.turn, range(count)) if turn[1]]
    hits = {}
    for batch in _batches(len(turns), 100, "answering in words"):
        prompts = [ASKED.format(turns[index][1]) for index in batch]
        inputs = text_tokenizer(prompts, padding=True, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=48, do_sample=False, eos_token_id=end, pad_token_id=end)
        answers = text_tokenizer.batch_decode(written[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for index, answer in zip(batch, answers, strict=True):
            task, _, due = turns[index]
            hits.setdefault(f"text_{task}", []).append(answer == due)
    return {task: sum(found) / len(found) for task, found in sorted(hits.items())}


def tiny_scores(folder: str | Path, *, count: int = 500, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """All scores of an arm-tiny folder on `count` held-out scenes, flat, by name."""
    folder = Path(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    scores = reconstruction(tokenizer, count=count, seed=seed)
    hard = reconstruction(tokenizer, HARD_CANVAS, count=count, seed=seed)
    similarity = zero_shot(tokenizer, folder / "backbones" / "siglip", count=count, seed=seed)
    return {
        **scores,
        "hard_read_back": hard["read_back"],
        "hard_psnr": hard["psnr"],
        "zero_shot": similarity["z_q"],
        "siglip_zero_shot": similarity["siglip"],
        **text_scores(folder / "backbones" / "qwen2", count=count, seed=seed),
    }
