"""Puts an ARM together on disk: a Qwen2.5 checkpoint and a visual tokenizer become one folder that is ready to train.

What the folder says is decided elsewhere, by the `from_backbones` of the configuration, the model and the processor.
Here weights go from file to file, and only those of the shard being written are in memory. Knows nothing about
training.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_arm import ArmConfig
from ..modeling_arm import ROWS_AT_ONCE, VOCABULARY, ArmForCausalLM, draw_new_rows
from ..processing_arm import ArmProcessor
from .presets import arm_7b_config

PRESETS: dict[str, Callable[[], ArmConfig]] = {"arm-7b": arm_7b_config}
# What the public checkpoints must agree in; the visual tokenizer's own sizes are free, but for its codebook.
SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("visual_token_offset", "vocab_size", "shape_token_offset", "tie_word_embeddings"),
    *("vision_start_token_id", "vision_end_token_id", "image_token_id"),
)
WEIGHT_FILES = ["*.json", "*.txt", "*.safetensors"]  # with the tokenizer's; not .bin twins
VQ_MODEL = "model.vq_model."


def check_sizes(config: ArmConfig, preset: str) -> None:
    """Raises ValueError where `config` differs from a preset in a size or an id, and names them all."""
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}, only {', '.join(PRESETS)}; or leave it out.")
    expected = PRESETS[preset]()
    pairs = {name: (getattr(config, name), getattr(expected, name)) for name in SIZES}
    if differing := [f"{name} {ours} instead of {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]:
        raise ValueError(f"This is no {preset}: {', '.join(differing)}. Take its parts, or leave {preset} out.")


def locate_tensors(source: str) -> dict[str, Path]:
    """The names of a checkpoint's tensors, in safetensors, sharded or not, and the file that holds each.

    Args:
        source: folder, or Hub id, whose weights are downloaded where the cache lacks them.

    Raises:
        ValueError: there are no safetensors, or a file is missing or cut off.
    """
    folder = Path(source) if Path(source).is_dir() else Path(snapshot_download(source, allow_patterns=WEIGHT_FILES))
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        files = [SAFE_WEIGHTS_NAME]
    elif (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        files = sorted(set(json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"].values()))
    else:
        raise ValueError(f"{source} has no {SAFE_WEIGHTS_NAME} and no index of shards; save it as safetensors first.")
    located = {}
    for file in files:
        try:
            with safe_open(folder / file, "pt") as opened:
                located |= dict.fromkeys(opened.keys(), folder / file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / file} cannot be read ({error}); download or save it again.") from error
    return located


class BackboneWeights:
    """The tensors of an ARM, by their names in it, each read from the backbones' files when it is asked for.

    Files are opened anew for each tensor: the pages of one that stays open stay in memory.

    Args:
        text, vq, seed: as for `assemble`.
        known: rows of embedding and head that are taken over.

    Raises:
        ValueError: as `locate_tensors`.
    """

    def __init__(self, *, text: str, vq: str, known: int, seed: int):
        self.known, self.seed = known, seed
        self.places = {name: (file, name) for name, file in locate_tensors(text).items()}
        for name, file in locate_tensors(vq).items():  # of an ArmVQModel, or an ArmVQForPreTraining that has one
            self.places[VQ_MODEL + name.removeprefix("vq_model.")] = (file, name)

    def slices(self, name: str):
        """The tensor as safetensors' slices, which read what is asked for."""
        file, there = self.places[name]
        return safe_open(file, "pt").get_slice(there)

    @property
    def dtype(self) -> torch.dtype:
        """The text checkpoint's."""
        return self.slices(VOCABULARY[0])[:1].dtype

    def check(self, planned: dict[str, torch.Tensor], rows: int) -> None:
        """Raises ValueError if a tensor that is planned is not there, or not in its shape, `rows` of a vocabulary."""
        if missing := [name for name in planned if name not in self.places]:
            raise ValueError(f"The backbones lack {len(missing)} tensors, {missing[0]} first; download them again.")
        for name, tensor in planned.items():
            found, expected = self.slices(name).get_shape(), list(tensor.shape)
            if name in VOCABULARY:
                expected[0] = rows
            if found != expected:
                raise ValueError(
                    f"{name} is {found}, but the config.json of its checkpoint says {expected}; download both again."
                )

    def read(self, name: str, planned: torch.Tensor) -> torch.Tensor:
        """The tensor in the planned (meta) one's shape and dtype."""
        if name not in VOCABULARY:
            file, there = self.places[name]
            return safe_open(file, "pt").get_tensor(there).to(planned.dtype)
        matrix = torch.empty_like(planned, device="cpu")
        for start in range(0, self.known, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, self.known)
            matrix[start:stop] = self.slices(name)[start:stop]
        draw_new_rows(matrix, self.known, self.seed + VOCABULARY.index(name))
        return matrix


def planned_tensors(model: ArmForCausalLM) -> dict[str, torch.Tensor]:
    """The tensors to write of a model on the meta device, by name: of tied matrices one."""
    planned = model.state_dict()
    if model.config.tie_word_embeddings:
        del planned[VOCABULARY[1]]
    return planned


def check_space(folder: Path, needed: int) -> None:
    """Raises ValueError if fewer than `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{needed / 1e9:.1f} GB are to be written, but {folder.parent} has {free / 1e9:.1f} GB free.")


def assemble(
    output: str | Path,
    *,
    text: str,
    vq: str,
    detokenizer: str | Path | None = None,
    preset: str | None = None,
    dtype: torch.dtype | str = "auto",
    seed: int = 0,
    max_shard_size: int | str = "2GB",
) -> Path:
    """Writes an untrained ARM: what `ArmForCausalLM.from_backbones` makes in memory, with its processor.

    The folder appears when it is whole. Beside Python's own memory, one shard of it is held at a time.

    Args:
        output: folder to write, which must not be there yet.
        text: folder or Hub id of a `Qwen2ForCausalLM` with its tokenizer.
        vq: folder or Hub id of an `ArmVQModel`, or an `ArmVQForPreTraining`, with its image processor.
        detokenizer: folder of a diffusers pipeline, copied to `output`/detokenizer.
        preset: name of the model that this must become, "arm-7b"; None takes any sizes.
        dtype: of the weights; "auto" is the text checkpoint's.
        seed: of the new rows.
        max_shard_size: of the files, in bytes or as "2GB"; a larger matrix gets a file of its own.

    Returns:
        `output`.

    Raises:
        ValueError: `output` is there or does not fit its disk; the parts are not what `preset` names, do not go
            together (`ArmConfig.from_backbones`) or are not whole.
    """
    output = Path(output)
    if output.exists():
        raise ValueError(f"{output} is there already; remove it or name another folder.")
    if detokenizer is not None and not (Path(detokenizer) / "model_index.json").is_file():
        raise ValueError(f"{detokenizer} holds no model_index.json; name the folder of a diffusers pipeline.")
    config = ArmConfig.from_backbones(text=text, vq=vq)
    if preset is not None:
        check_sizes(config, preset)
    processor = ArmProcessor.from_backbones(text=text, vq=vq)
    weights = BackboneWeights(text=text, vq=vq, known=config.shape_token_offset, seed=seed)
    if dtype == "auto":
        dtype = weights.dtype
    with torch.device("meta"):
        model = ArmForCausalLM._from_config(config, dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    model.generation_config = model.generation_config_from_backbone(text)
    planned = planned_tensors(model)
    weights.check(planned, rows=config.visual_token_offset)
    aside = output.with_name(f".{output.name}.assembling")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run left behind
    aside.mkdir(parents=True)
    try:
        copied = Path(detokenizer).rglob("*") if detokenizer is not None else ()
        needed = sum(tensor.nbytes for tensor in planned.values()) + sum(file.lstat().st_size for file in copied)
        check_space(aside, needed)
        model.config.architectures = [ArmForCausalLM.__name__]
        for part in (model.config, model.generation_config, processor):
            part.save_pretrained(aside)
        write_weights(aside, model, weights, max_shard_size)
        if detokenizer is not None:
            shutil.copytree(detokenizer, aside / "detokenizer")
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return output


def write_weights(folder: Path, model: ArmForCausalLM, weights: BackboneWeights, max_shard_size: int | str) -> None:
    """Writes shards one after the other, and their index if there are several, as `model.save_pretrained` does."""
    planned = planned_tensors(model)
    split = split_torch_state_dict_into_shards(planned, max_shard_size=max_shard_size)
    for file, names in logging.tqdm(split.filename_to_tensors.items(), desc="Writing model shards"):
        save_file({name: weights.read(name, planned[name]) for name in names}, folder / file, {"format": "pt"})
    if split.is_sharded:
        metadata = {"total_parameters": model.num_parameters(), **split.metadata}
        index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
