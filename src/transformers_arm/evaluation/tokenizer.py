"""Scores any tokenizer, and its detokenizer if there is one, on any pictures, batch by batch.

    tokenizer = Tokenizer.from_parts("my_tokenizer", "my_detokenizer", keep_aspect_ratio=True)
    pictures = dataset_pictures(find_sources("my_pictures", None, "train"))
    scores = tokenizer_scores(tokenizer, pictures, siglip="my_siglip", inception="inception-2015-12-05.pt")

`Fidelity` scores what any other codec gives back in the same way. Knows nothing about the embedded world.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, load_dataset
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoTokenizer, SiglipModel

from ..data.collators import siglip_input_ids, to_pixel_values
from ..data.columns import read_text
from ..data.conversations import pixel_values_of
from ..data.file_errors import until_broken
from ..data.input_files import InputFile
from ..data.pictures import read_picture
from ..data.renaming import arranged
from ..data.row_errors import FEWEST_ROWS, RowError, Tally, as_row_error, file_error, row_error
from ..data.visual_tokenizer import load_tokenizer
from ..detokenizer_arm import ArmDetokenizer
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..extras import require
from ..fetching_arm import FROM_CALLER, Fetcher
from ..image_processing_arm import ArmImageProcessor
from ..metrics.arm_codebook.arm_codebook import code_counts, usage_scores
from ..metrics.arm_fid.arm_fid import FrechetDistance
from ..metrics.arm_fidelity.arm_fidelity import fidelity_scores
from ..metrics.arm_zero_shot.arm_zero_shot import zero_shot_accuracy
from ..modeling_arm_vq import ArmVQModel, ArmVQOutput
from ..modeling_arm_vq_pretraining import ArmVQForPreTraining
from ..renderers_arm import detokenizer_class

CLASS_PROMPT = "a photo of a {}."
COLUMNS = ("image", "caption", "label")
# What columns are called; the first that holds something counts, so our own names stand before others'.
RENAME = dict.fromkeys(("image", "jpg", "jpeg", "png", "webp"), "image")
RENAME |= dict.fromkeys(("caption", "txt", "text", "prompt"), "caption") | dict.fromkeys(("label", "cls"), "label")
WINDOW = 1000  # captions that false ones are drawn from


# --- the tokenizer ---------------------------------------------------------------------------------------------------


@dataclass
class Tokenizer:
    """A tokenizer with what turns pictures into its input and, where there is one, its tokens into pictures."""

    model: ArmVQModel
    image_processor: ArmImageProcessor
    detokenizer: ArmDetokenizer | None = None

    @classmethod
    def from_pretrained(cls, folder: str | PathLike) -> "Tokenizer":
        """Loads the tokenizer of a complete folder, from its `vq_model/` or else its ARM, and its `detokenizer/`, in
        fp32; raises as `from_parts`.
        """
        return cls.from_parts(folder, Path(folder) / "detokenizer")

    @classmethod
    def from_training(cls, folder: str | PathLike, *, steps: int) -> "Tokenizer":
        """Loads what `trainers/tokenizer.py` wrote, or a checkpoint of it, in fp32; pictures are rendered by the pixel
        transformer of the training itself, in so many Euler steps and without guidance, whose null it never learnt.
        """
        folder, whole = Path(folder), Path(folder) / "pretraining"
        trained = ArmVQForPreTraining.from_pretrained(whole if whole.is_dir() else folder, dtype=torch.float32).eval()
        scheduler = FlowMatchEulerDiscreteScheduler()
        detokenizer = ArmPixelDetokenizer(trained.pixel_transformer, scheduler, steps, default_guidance_scale=1.0)
        detokenizer.vq_model = trained.vq_model
        detokenizer.set_progress_bar_config(disable=True)
        if (folder / "vq_model").is_dir():
            return cls(trained.vq_model, ArmImageProcessor.from_pretrained(folder / "vq_model"), detokenizer)
        return cls(trained.vq_model, ArmImageProcessor(patch_size=trained.config.patch_size), detokenizer)

    @classmethod
    def from_parts(
        cls,
        tokenizer: str | PathLike,
        detokenizer: str | PathLike | None = None,
        *,
        device: str | torch.device = "cpu",
        **sizing,
    ) -> "Tokenizer":
        """Loads a tokenizer and a detokenizer from wherever each is, in fp32.

        Args:
            tokenizer: folder or Hub id of an `ArmVQModel` with its image processor, or of an ARM.
            detokenizer: folder or Hub id of a renderer; without one there are no reconstructions.
            device: where both run.
            sizing: of `ArmImageProcessor`, in place of its own: `size`, `keep_aspect_ratio`.

        Raises:
            OSError: there is no such folder or id.
            ValueError: it is no tokenizer, or a size is not on the patch grid.
        """
        if (Path(tokenizer) / "vq_model" / "config.json").is_file():
            tokenizer = Path(tokenizer) / "vq_model"
        model, _ = load_tokenizer(tokenizer)
        image_processor = ArmImageProcessor.from_pretrained(tokenizer, **sizing)
        if detokenizer is not None:
            detokenizer = detokenizer_class(detokenizer).from_pretrained(detokenizer).to(device)
            detokenizer.vq_model = model
            detokenizer.set_progress_bar_config(disable=True)
        return cls(model.to(device), image_processor, detokenizer)

    def reconstruct(self, images: list[np.ndarray], *, seed: int = 0) -> tuple[np.ndarray, list[Image.Image]]:
        """uint8 pictures [H, W, 3] of one size -> codes [N, h, w] and the pictures they give back."""
        codes = self.model.get_codes(to_pixel_values(images).to(self.model.device))
        generator = torch.Generator().manual_seed(seed)
        return codes.cpu().numpy(), self.detokenizer(codes=codes, generator=generator).images


# --- pictures --------------------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """A picture and what is known of it.

    Args:
        image: whatever `read_picture` takes, or the error that stands in its place.
        caption: a text that describes it.
        label: the number of its class.
        is_described_by: whether another caption is true of it too; None compares it with its own.
        file, row: where it comes from, for messages.
        fetcher: opens what `image` names.
    """

    image: object
    caption: str | None = None
    label: int | None = None
    is_described_by: Callable[[str], bool] | None = None
    file: str = ""
    row: int = 0
    fetcher: Fetcher = FROM_CALLER


def dataset_pictures(
    sources: Iterable[InputFile], rename: Mapping[str, str] = RENAME, *, local_files: bool = False
) -> Iterator[Picture]:
    """The pictures of `find_sources`, in order; rows that cannot be used, and files cut off, as errors in their place.

    Args:
        rename: {their name: `image`, `caption` or `label`}; of several names for one the first that holds something
            counts.
        local_files: whether rows of files may name local pictures, see `fetcher_for`.
    """
    for source in sources:
        problems, row, fetcher = [], -1, source.fetcher(local_files)
        for row, columns in enumerate(until_broken(source.rows(), problems)):
            try:
                with as_row_error(row, file=source.name):
                    picture = _picture(columns, row, rename)
            except RowError as error:
                picture = Picture(error)
            yield picture._replace(file=source.name, row=row, fetcher=fetcher)
        if problems:
            yield Picture(file_error(row + 1, problems[0]), file=source.name, row=row + 1)


def _picture(columns: dict, row: int, rename: Mapping[str, str]) -> Picture:
    named = arranged(columns, row, rename, columns=COLUMNS)
    if named["image"] is None:
        problem = f"the row has {', '.join(columns)}, and no picture. Say which is one, as in --rename photo=image."
        raise row_error(row, "image", problem, "missing")
    caption = None if named["caption"] is None else read_text(named, row, "caption")
    label = named["label"]
    if isinstance(label, Mapping):  # a member of a tar
        label = label["bytes"]
    try:
        label = None if label is None else int(label)
    except ValueError as error:
        problem = f"{label!r} is no whole number. Number the classes from 0."
        raise row_error(row, "label", problem, "no number") from error
    return Picture(named["image"], caption, label)


def class_names(source: InputFile, rename: Mapping[str, str] = RENAME) -> list[str] | None:
    """The names of the classes that labels number, where a dataset states them: image folders, `datasets`' parquet."""
    dataset = source.content
    if isinstance(dataset, str):
        if source.builder != "parquet":
            return None
        dataset = load_dataset("parquet", data_files=dataset, split="train", streaming=True)
    labels = (feature for name, feature in (dataset.features or {}).items() if rename.get(name, name) == "label")
    return next((feature.names for feature in labels if isinstance(feature, ClassLabel)), None)


def _readable(
    pictures: Iterable[Picture], image_processor: ArmImageProcessor, tally: Tally
) -> Iterator[tuple[Picture, torch.Tensor]]:
    """Pictures with their `pixel_values` [3, H, W]; in `tally` those that can be read count as written.

    Raises:
        ValueError: none of the first hundred can be read.
    """

    def prepare(image) -> torch.Tensor:
        return pixel_values_of(image, image_processor)

    for picture in pictures:
        tally.rows += 1
        try:
            if isinstance(picture.image, ValueError):
                raise picture.image
            pixel_values = read_picture(picture.image, picture.row, "image", prepare, picture.fetcher)
        except ValueError as error:
            tally.skip(picture.file, error)
            if tally.rows == FEWEST_ROWS:
                _check_any(tally)
        else:
            tally.written += 1
            yield picture, pixel_values


def _check_any(tally: Tally) -> None:
    """Raises a ValueError if nothing could be read."""
    if not tally.rows:
        raise ValueError("There are no pictures. Does the dataset hold any?")
    if not tally.written:
        first = ": ".join(filter(None, tally.examples[0].values()))
        raise ValueError(f"None of {tally.rows} pictures can be read. The first: {first}")


def _alike(batch: list) -> Iterator[tuple[tuple[int], tuple[Picture], torch.Tensor]]:
    """A batch of (number, (picture, pixel_values)) -> numbers, pictures and `pixel_values` of each size."""

    def size(each) -> tuple[int, ...]:
        return tuple(each[1][1].shape)

    for _, alike in groupby(sorted(batch, key=size), key=size):
        numbers, read = zip(*alike, strict=True)
        pictures, pixel_values = zip(*read, strict=True)
        yield numbers, pictures, torch.stack(pixel_values)


# --- scores ----------------------------------------------------------------------------------------------------------


class Fidelity:
    """PSNR, SSIM and, with a network for it, rFID of pictures that came back, batch by batch.

    Args:
        inception: file of FID's network; see `arm_fid`.
        device: where that runs.
    """

    def __init__(self, inception: str | PathLike | nn.Module | None = None, device: str | torch.device = "cpu"):
        require("A score of fidelity", "metrics", "skimage")
        self.distance = None if inception is None else FrechetDistance(inception, device)
        self.sums, self.pictures = {"psnr": 0.0, "ssim": 0.0}, 0

    def add(self, originals: Sequence[Image.Image], returned: Sequence[Image.Image]) -> None:
        """Adds pictures of one size and what came back of them."""
        for name, mean in fidelity_scores(returned, originals).items():
            self.sums[name] += mean * len(originals)
        self.pictures += len(originals)
        if self.distance is not None:
            self.distance.add(originals, real=True)
            self.distance.add(returned, real=False)

    def scores(self) -> dict[str, float]:
        """`psnr` in dB and `ssim`, means over the pictures, and `rfid`, which raises a ValueError at one picture."""
        means = {name: total / self.pictures for name, total in self.sums.items()}
        return means if self.distance is None else {**means, "rfid": self.distance.value()}


class ZeroShot:
    """How often patches say which text describes their picture, batch by batch.

    `z_q`, and beside it the SigLIP features that it was made from, pass through SigLIP's own pooling head and stand
    before embeddings of its text tower: of all classes, or of a picture's own caption and others that are false of it,
    drawn from the thousand captions around it.

    Args:
        siglip: folder or id of the `SiglipModel` that the tokenizer's vision tower comes from.
        class_names: what labels number; the first of several names separated by commas counts. None takes captions.
        candidates: captions to choose from.
        seed: of the false captions.
        device: where it runs.

    Raises:
        ValueError: fewer than two candidates, or a model without a pooling head.
    """

    def __init__(
        self,
        siglip: str | PathLike,
        *,
        class_names: Sequence[str] | None = None,
        candidates: int = 100,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        if candidates < 2:
            raise ValueError(f"candidates {candidates} is no choice; take at least 2 captions.")
        self.siglip = SiglipModel.from_pretrained(siglip, dtype=torch.float32, use_safetensors=True).eval().to(device)
        if not hasattr(self.siglip.vision_model, "head"):
            raise ValueError(f"{siglip} has no pooling head; take a SiglipModel whose vision_use_head is true.")
        self.text_tokenizer = AutoTokenizer.from_pretrained(siglip)
        self.candidates, self.seed = candidates, seed
        self.classes, self.fewest = None, candidates
        if class_names is not None:
            names = [name.split(",")[0].strip() for name in class_names]
            self.classes = torch.cat(
                [self.text_embeddings(names[i : i + 100], CLASS_PROMPT) for i in range(0, len(names), 100)]
            )
            self.fewest = len(names)
        self.captions = deque(maxlen=WINDOW)  # the last ones, with their embeddings
        self.waiting = []  # of pictures that have not chosen yet: what is true of them, embeddings
        self.predictions, self.references = {"z_q": [], "siglip": []}, []

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str], template: str = "{}") -> torch.Tensor:
        """Texts -> float [N, D] of length one."""
        longest = self.siglip.config.text_config.max_position_embeddings
        written = [template.format(text) for text in texts]
        input_ids = siglip_input_ids(self.text_tokenizer, written, longest).to(self.siglip.device)
        return nn.functional.normalize(self.siglip.get_text_features(input_ids=input_ids).pooler_output, dim=-1)

    @torch.no_grad()
    def image_embeddings(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [B, h, w, C] -> float [B, D] of length one."""
        due = self.siglip.config.vision_config.hidden_size
        if patches.shape[-1] != due:
            raise ValueError(
                f"The tokenizer is {patches.shape[-1]} wide and this SigLIP {due}; take the SigLIP it was made from."
            )
        return nn.functional.normalize(self.siglip.vision_model.head(patches.flatten(1, 2)), dim=-1)

    def add(self, pictures: Sequence[Picture], encoded: ArmVQOutput) -> None:
        """Adds pictures and what the tokenizer made of them; those without a label, or a caption, are left out.

        Raises:
            ValueError: a label that no class name is of, or another SigLIP than the tokenizer's.
        """
        by_class = self.classes is not None
        kept = [place for place, each in enumerate(pictures) if (each.label if by_class else each.caption) is not None]
        if kept:
            patches = {"z_q": encoded.z_q[kept], "siglip": encoded.features[kept]}
            embeddings = {name: self.image_embeddings(each) for name, each in patches.items()}
            (self._add_to_classes if by_class else self._add_to_captions)(
                [pictures[place] for place in kept], embeddings
            )

    def _add_to_classes(self, pictures: list[Picture], embeddings: dict[str, torch.Tensor]) -> None:
        labels = [picture.label for picture in pictures]
        if wrong := [label for label in labels if not 0 <= label < len(self.classes)]:
            raise ValueError(f"Label {wrong[0]} is outside the {len(self.classes)} class names; give a name for each.")
        self.references += labels
        for name, each in embeddings.items():
            self.predictions[name] += (each @ self.classes.t()).argmax(-1).tolist()

    def _add_to_captions(self, pictures: list[Picture], embeddings: dict[str, torch.Tensor]) -> None:
        texts = self.text_embeddings([picture.caption for picture in pictures])
        for picture, text, *each in zip(pictures, texts, *embeddings.values(), strict=True):
            self.captions.append((picture.caption, text))
            is_true = picture.is_described_by or picture.caption.__eq__
            self.waiting.append((is_true, dict(zip(embeddings, each, strict=True))))
            if len(self.waiting) == WINDOW:
                self._choose()

    def check_any(self) -> None:
        """Raises a ValueError if no picture so far had a label or caption: better after one batch than after all."""
        if not self.references and not self.waiting:
            what = "caption" if self.classes is None else "label"
            raise ValueError(
                f"No picture of the first batch has a {what}; say which column it is, as in --rename theirs={what}, "
                "or leave out SigLIP."
            )

    def _choose(self) -> None:
        """Has the waiting pictures choose among captions; predictions are places among the candidates, own first."""
        captions, texts = [caption for caption, _ in self.captions], torch.stack([text for _, text in self.captions])
        for own, (is_true, embeddings) in enumerate(self.waiting, len(captions) - len(self.waiting)):
            others = random.Random(f"{self.seed}/{len(self.references)}").sample(range(len(captions)), len(captions))
            false = list(islice((other for other in others if not is_true(captions[other])), self.candidates - 1))
            self.fewest = min(self.fewest, 1 + len(false))
            self.references.append(0)
            for name, embedding in embeddings.items():
                self.predictions[name].append(int((texts[[own, *false]] @ embedding).argmax()))
        self.waiting = []

    def scores(self) -> dict[str, float]:
        """`zero_shot` of `z_q` and `siglip_zero_shot` of the frozen features (0..1), of how many `zero_shot_pictures`,
        and the fewest `zero_shot_candidates` that one of them chose from.
        """
        if self.waiting:
            self._choose()
        return {
            "zero_shot": zero_shot_accuracy(self.predictions["z_q"], self.references),
            "siglip_zero_shot": zero_shot_accuracy(self.predictions["siglip"], self.references),
            "zero_shot_pictures": len(self.references),
            "zero_shot_candidates": self.fewest,
        }


def tokenizer_scores(
    tokenizer: Tokenizer,
    pictures: Iterable[Picture],
    *,
    count: int | None = None,
    batch_size: int = 32,
    siglip: str | PathLike | None = None,
    class_names: Sequence[str] | None = None,
    candidates: int = 100,
    inception: str | PathLike | nn.Module | None = None,
    seed: int = 0,
    on_batch: Callable[[list[Image.Image], list[Image.Image]], None] | None = None,
) -> dict:
    """All scores of a tokenizer on pictures, flat, by name. In memory are a batch, and the embeddings of zero-shot.

    Pictures are compared, and their pixels counted, at the size that the tokenizer's image processor gives them.

    Args:
        tokenizer: without a detokenizer there are no `psnr`, `ssim` and `rfid`.
        pictures: read until `count` of them could be; None takes all.
        batch_size: pictures that are read together; those of one size are encoded together.
        siglip, class_names, candidates: see `ZeroShot`; without a SigLIP there is no zero-shot.
        inception: see `Fidelity`; without it there is no `rfid`.
        seed: of the detokenizer's noise, a picture's own whatever its batch, and of the false captions.
        on_batch: is shown originals and reconstructions of one size, as they come.

    Returns:
        `pictures`, how many were measured; `skipped`, `skipped_reasons` and the first `skipped_examples`;
        `tokens_per_picture`, `codebook_size`, `bits_per_pixel`; `codebook_usage` and `code_perplexity`; then what
        `Fidelity.scores` and `ZeroShot.scores` give.

    Raises:
        ValueError: a number below 1, no picture that can be read, pictures without labels or captions for zero-shot,
            or an rFID of one picture.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value} must be at least 1.")
    if inception is not None and tokenizer.detokenizer is None:
        raise ValueError("rFID is of reconstructions; give a detokenizer as well, or leave out the network.")
    device, codebook_size = tokenizer.model.device, tokenizer.model.config.codebook_size
    fidelity = None if tokenizer.detokenizer is None else Fidelity(inception, device)
    zero_shot = None
    if siglip is not None:
        names = {"class_names": class_names, "candidates": candidates}
        zero_shot = ZeroShot(siglip, **names, seed=seed, device=device)
    counts, pixels, tally = np.zeros(codebook_size, np.int64), 0, Tally()
    readable = enumerate(islice(_readable(pictures, tokenizer.image_processor, tally), count))
    with tqdm(desc="Tokenizer", total=count, unit=" pictures") as bar:
        while batch := list(islice(readable, batch_size)):
            for numbers, alike, pixel_values in _alike(batch):
                encoded = tokenizer.model.encode(pixel_values.to(device), output_z_q=bool(fidelity or zero_shot))
                counts += code_counts(encoded.codes.cpu().numpy(), codebook_size)
                pixels += pixel_values[:, 0].numel()
                if zero_shot is not None:
                    zero_shot.add(alike, encoded)
                if fidelity is not None:
                    originals = tokenizer.image_processor.postprocess(pixel_values)
                    noise = [torch.Generator().manual_seed(seed + number) for number in numbers]
                    returned = tokenizer.detokenizer(z_q=encoded.z_q, generator=noise).images
                    fidelity.add(originals, returned)
                    if on_batch is not None:
                        on_batch(originals, returned)
            if zero_shot is not None:
                zero_shot.check_any()
            bar.set_postfix(skipped=tally.rows - tally.written, refresh=False)
            bar.update(len(batch))
    _check_any(tally)
    return {
        "pictures": tally.written,
        "skipped": tally.rows - tally.written,
        "skipped_reasons": dict(tally.skipped),
        "skipped_examples": tally.examples,
        "tokens_per_picture": int(counts.sum()) / tally.written,
        "codebook_size": codebook_size,
        "bits_per_pixel": int(counts.sum()) * math.log2(codebook_size) / pixels,
        **usage_scores(counts),
        **({} if fidelity is None else fidelity.scores()),
        **({} if zero_shot is None else zero_shot.scores()),
    }
