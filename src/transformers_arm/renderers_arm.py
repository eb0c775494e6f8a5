"""Which renderers there are, and the one that lies in a model's folder. diffusers, which takes a while to import, is
imported when one is asked for.

Knows nothing about what draws the tokens.
"""

import os
from typing import TYPE_CHECKING

import torch
from huggingface_hub import is_offline_mode, snapshot_download

if TYPE_CHECKING:
    from .detokenizer_arm import ArmDetokenizer

DETOKENIZER_FOLDER = "detokenizer"
INDEX = "model_index.json"  # of a diffusers pipeline


def detokenizer_classes() -> dict[str, type["ArmDetokenizer"]]:
    """All classes of renderers, by name."""
    from .detokenizer_arm_flux import ArmFluxDetokenizer
    from .detokenizer_arm_flux2 import ArmFlux2Detokenizer
    from .detokenizer_arm_pixel import ArmPixelDetokenizer
    from .detokenizer_arm_sana import ArmSanaDetokenizer

    classes = (ArmPixelDetokenizer, ArmFlux2Detokenizer, ArmFluxDetokenizer, ArmSanaDetokenizer)
    return {each.__name__: each for each in classes}


def detokenizer_class(folder: str | os.PathLike) -> type["ArmDetokenizer"]:
    """The class that a renderer's folder names.

    Raises:
        ValueError: it names none of ours.
    """
    from diffusers import DiffusionPipeline

    name, classes = DiffusionPipeline.load_config(folder).get("_class_name"), detokenizer_classes()
    if name not in classes:
        raise ValueError(f"{folder} holds a {name}, which renders no tokens; renderers are {', '.join(classes)}.")
    return classes[name]


def detokenizer_class_of_base(base: str | os.PathLike, **hub) -> type["ArmDetokenizer"]:
    """The class whose `from_base` takes a published pipeline, by its folder or Hub id; `hub` as for every download.

    Raises:
        ValueError: it is of no family that renders tokens.
    """
    from diffusers import DiffusionPipeline

    name = DiffusionPipeline.load_config(base, **hub).get("_class_name")
    families = {each: kind for kind in detokenizer_classes().values() for each in getattr(kind, "base_pipelines", ())}
    if name not in families:
        raise ValueError(f"{base} is a {name}, of which no renderer is made; take one of {', '.join(families)}.")
    return families[name]


def load_detokenizer(
    name_or_path: str, dtype: torch.dtype = torch.float32, revision: str | None = None, **hub
) -> "ArmDetokenizer":
    """The detokenizer in the `detokenizer` subfolder of a model's folder or Hub repo; `hub` as for every download.

    Raises:
        FileNotFoundError: there is none.
        OSError: it could not be downloaded.
        ValueError: its folder names no renderer.
    """
    folder, cached = name_or_path, ""
    offline = bool(hub.pop("local_files_only", False) or is_offline_mode())
    if name_or_path and not os.path.isdir(name_or_path):
        try:
            # No code: nothing here needs any, and an index may name it as a component. Nor pickles, as elsewhere.
            kinds = [f"{DETOKENIZER_FOLDER}/*{ending}" for ending in (".json", ".safetensors", ".txt")]
            patterns = {"allow_patterns": kinds}
            folder = snapshot_download(name_or_path, revision=revision, local_files_only=offline, **patterns, **hub)
        except Exception as error:  # of many kinds: what a broken connection raises is no OSError, and not always one
            raise OSError(
                f"The detokenizer of {name_or_path} could not be downloaded. If the repo is gated or private, log in "
                "with `hf auth login`, or pass token=. Offline, there is only what an earlier run downloaded.\n"
                f"{type(error).__name__}: {error}"
            ) from error
        if offline:
            cached = " among what was downloaded of it, and this run is offline"
    folder = os.path.join(folder, DETOKENIZER_FOLDER)
    if not name_or_path or not os.path.isfile(os.path.join(folder, INDEX)):
        raise FileNotFoundError(
            f"{name_or_path or 'A model that was not loaded from a folder'} holds no {DETOKENIZER_FOLDER}/{INDEX}"
            f"{cached}; name a complete ARM folder, or pass detokenizer=ArmPixelDetokenizer.from_pretrained(...) to "
            "the pipeline."
        )
    detokenizer = detokenizer_class(folder).from_pretrained(folder, dtype=dtype)
    detokenizer.set_progress_bar_config(disable=True)  # it is a part: what draws has a bar
    return detokenizer


def torch_parts(detokenizer) -> list[torch.nn.Module]:
    """The modules that a detokenizer, a diffusers pipeline, computes with."""
    return [part for part in detokenizer.components.values() if isinstance(part, torch.nn.Module)]
