"""Which published models the weights in a folder come from, as the configurations in it show.

A shape shows a backbone, not a proof: whoever trained one of that shape from scratch can state it. Knows sizes and
names of public models; nothing about cards and licences.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .files import read_json

# Detokenizers whose architecture nobody else has.
FLUX_DEV, SANA = "black-forest-labs/FLUX.1-dev", "Efficient-Large-Model/Sana_1600M_1024px"
# By the width of their text encoder's states; a klein of 4B, 7680, restricts nobody.
FLUX2 = {15_360: "black-forest-labs/FLUX.2-dev", 12_288: "black-forest-labs/FLUX.2-klein-base-9B"}


class Backbone(NamedTuple):
    """A public model, and a pattern of the ids, in small letters, of models of its shape by the same makers."""

    name: str
    makes: str


# hidden_size, num_hidden_layers, intermediate_size
BACKBONES = MappingProxyType(
    {
        **{
            shape: Backbone(f"Qwen/Qwen2.5-{size}", f"qwen/qwen*-{size.lower()}*")
            for size, shape in {
                "0.5B": (896, 24, 4864),
                "1.5B": (1536, 28, 8960),
                "3B": (2048, 36, 11_008),
                "7B": (3584, 28, 18_944),
                "14B": (5120, 48, 13_824),
                "32B": (5120, 64, 27_648),
                "72B": (8192, 80, 29_568),
            }.items()
        },
        (1152, 27, 4304): Backbone("google/siglip2-so400m-patch16-512", "google/siglip*so400m*"),
        (1536, 40, 6144): Backbone("google/siglip2-giant-opt-patch16-384", "google/siglip*giant*"),
    }
)


def configurations_in(content) -> Iterator[dict]:
    """The objects in a configuration: itself, and those of its parts, at any depth."""
    if isinstance(content, dict):
        yield content
        for each in content.values():
            yield from configurations_in(each)


def configs_of(files: Mapping[str, Path]) -> Iterator[tuple[str, dict]]:
    """The configurations of models among some files, with their paths in the repo."""
    for name, file in files.items():
        if file.name == "config.json":
            yield name, read_json(file)


def shown_detokenizers(files: Mapping[str, Path]) -> dict[str, str]:
    """Restricted models that weights in the folder come from, as their architecture shows, and where."""
    shown = {}
    for name, config in configs_of(files):
        model = config.get("_class_name", "")
        if model.startswith("Flux2"):
            if (base := FLUX2.get(config.get("joint_attention_dim"))) is not None:
                shown[base] = name
        elif "Flux" in model and config.get("guidance_embeds"):  # distilled guidance: only dev has it
            shown[FLUX_DEV] = name
        if "Sana" in model and config.get("num_layers", 0) >= 20:  # the smallest that is published
            shown[SANA] = name
    return shown


def shown_backbones(files: Mapping[str, Path]) -> dict[Backbone, str]:
    """Public models whose shape a part of the folder's models has, and where it stands."""
    shown = {}
    for name, config in configs_of(files):
        for part in configurations_in(config):
            shape = tuple(part.get(key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
            if shape in BACKBONES:
                shown.setdefault(BACKBONES[shape], name)
    return shown


def is_of(base: str, backbone: Backbone) -> bool:
    """Whether a Hub id names a model of a backbone's makers and shape."""
    return fnmatch(base.lower(), backbone.makes)
