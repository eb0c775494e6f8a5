"""`transformers-arm env`: versions, devices and what is optional, as a Markdown list to paste into an issue.

Packages and the versions they must have are those of the installed metadata; none is imported for its version.
"""

import argparse
import os
import platform
from collections import Counter
from importlib import metadata

from packaging.requirements import Requirement

HELP = "versions, devices and optional packages, to paste into an issue"
PACKAGE = "transformers-arm"
# What the metadata has no place for: what each extra is for.
PURPOSES = {
    "train": "the recipes, LoRA",
    "rl": "reinforcement learning and fine-tuning with TRL",
    "qlora": "4-bit weights, 8-bit optimizers",
    "metrics": "PSNR, SSIM and FID",
    "emoji": "the pictures of the emoji world",
    "flash": "FlashAttention",
    "serve": "a server of OpenAI's requests",
    "app": "a page in a browser",
}


def required(extra: str = "") -> list[Requirement]:
    """What the package requires, or one of its extras besides that."""
    requirements = [Requirement(each) for each in metadata.requires(PACKAGE)]
    return [each for each in requirements if (each.marker.evaluate({"extra": extra}) if each.marker else not extra)]


def installed(requirement: Requirement) -> str:
    """The version of a required package, and what is wrong with it: `2.13.0`, `2.5.1, but must be >=2.8`."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"not installed, must be {requirement.specifier}"
    fits = requirement.specifier.contains(version, prereleases=True)
    return version if fits else f"{version}, but must be {requirement.specifier}"


def devices() -> str:
    """What torch can compute on."""
    import torch

    if torch.cuda.is_available():
        names = Counter(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        bfloat16 = "with" if torch.cuda.is_bf16_supported(including_emulation=False) else "without"
        return f"{runtime}, {', '.join(f'{count} x {name}' for name, count in names.items())}, {bfloat16} bfloat16"
    return f"{torch.accelerator.current_accelerator() or 'no GPU'}, {os.cpu_count()} CPU cores"


def environment_report() -> str:
    """The list: what is installed, then the extras with what each is for."""
    lines = {
        PACKAGE: metadata.version(PACKAGE),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": devices(),
        **{requirement.name: installed(requirement) for requirement in required()},
    }
    for extra, purpose in PURPOSES.items():
        packages = [
            f"what {', '.join(sorted(each.extras))} has" if each.name == PACKAGE else f"{each.name} {installed(each)}"
            for each in required(extra)
        ]
        lines[f"{PACKAGE}[{extra}], {purpose}"] = "; ".join(packages)
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def add_arguments(command: argparse.ArgumentParser) -> None:
    """It has none."""


def run(arguments: argparse.Namespace) -> None:
    print(environment_report())
