"""ARM (arXiv 2606.11188): one autoregressive transformer that understands, generates and edits images.

Importing this package registers its models with transformers' Auto classes, and its pipelines. The command
`transformers-arm` does so itself, once it knows that it has something to run: its help is there at once.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from os.path import basename
from typing import TYPE_CHECKING

from .extras import EXTRAS, require

if TYPE_CHECKING:  # what reads the names without running this
    from .configuration_arm import ArmConfig as ArmConfig
    from .configuration_arm import ArmVQConfig as ArmVQConfig
    from .connector_arm import ArmConnector as ArmConnector
    from .detokenizer_arm_flux import ArmFluxDetokenizer as ArmFluxDetokenizer
    from .detokenizer_arm_flux2 import ArmFlux2Detokenizer as ArmFlux2Detokenizer
    from .detokenizer_arm_pixel import ArmPixelDetokenizer as ArmPixelDetokenizer
    from .detokenizer_arm_sana import ArmSanaDetokenizer as ArmSanaDetokenizer
    from .diffusers_pipeline_arm import ArmPipeline as ArmPipeline
    from .image_processing_arm import ArmImageProcessor as ArmImageProcessor
    from .interleaved_pipeline_arm import ArmInterleavedPipeline as ArmInterleavedPipeline
    from .modeling_arm import ArmForCausalLM as ArmForCausalLM
    from .modeling_arm import ArmModel as ArmModel
    from .modeling_arm_vq import ArmVQModel as ArmVQModel
    from .modeling_arm_vq_pretraining import ArmVQForPreTraining as ArmVQForPreTraining
    from .pipeline_arm import ArmImageEditingPipeline as ArmImageEditingPipeline
    from .pipeline_arm import ArmTextToImagePipeline as ArmTextToImagePipeline
    from .pixel_transformer_arm import ArmPixelTransformer as ArmPixelTransformer
    from .processing_arm import ArmProcessor as ArmProcessor
    from .registering import register as register
    from .training.grpo import ArmGRPOConfig as ArmGRPOConfig
    from .training.grpo import ArmGRPOTrainer as ArmGRPOTrainer
    from .training.sft_trl import ArmSFTConfig as ArmSFTConfig
    from .training.sft_trl import ArmSFTTrainer as ArmSFTTrainer

__version__ = "0.1.0.dev0"
# Where each name is; found when it is asked for.
_NAMES = {
    "ArmConfig": "configuration_arm",
    "ArmConnector": "connector_arm",
    "ArmFlux2Detokenizer": "detokenizer_arm_flux2",
    "ArmFluxDetokenizer": "detokenizer_arm_flux",
    "ArmForCausalLM": "modeling_arm",
    "ArmGRPOConfig": "training.grpo",
    "ArmGRPOTrainer": "training.grpo",
    "ArmImageEditingPipeline": "pipeline_arm",
    "ArmImageProcessor": "image_processing_arm",
    "ArmInterleavedPipeline": "interleaved_pipeline_arm",
    "ArmModel": "modeling_arm",
    "ArmPipeline": "diffusers_pipeline_arm",
    "ArmPixelDetokenizer": "detokenizer_arm_pixel",
    "ArmPixelTransformer": "pixel_transformer_arm",
    "ArmProcessor": "processing_arm",
    "ArmSFTConfig": "training.sft_trl",
    "ArmSFTTrainer": "training.sft_trl",
    "ArmSanaDetokenizer": "detokenizer_arm_sana",
    "ArmTextToImagePipeline": "pipeline_arm",
    "ArmVQConfig": "configuration_arm",
    "ArmVQForPreTraining": "modeling_arm_vq_pretraining",
    "ArmVQModel": "modeling_arm_vq",
    "register": "registering",
}
_TRAINERS = {name for name, module in _NAMES.items() if module.startswith("training.")}  # they need trl
# `import *` gives what there is.
__all__ = [name for name in _NAMES if name not in _TRAINERS or all(map(find_spec, EXTRAS["rl"]))]


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _TRAINERS:
        require(name, "rl")
    found = globals()[name] = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


def _is_the_command() -> bool:
    """Whether this process was started to run `transformers-arm`, as a script or by `python -m transformers_arm`.

    Not by a process that multiprocessing spawned from it: that has the arguments of its parent, but not its command
    line, and needs the models.
    """
    script, line = (getattr(sys, "argv", None) or [""])[0], getattr(sys, "orig_argv", [])
    if script == "-m":  # until Python knows where the module is
        return ("-m", __name__) in zip(line, line[1:], strict=False)
    return script in line and basename(script).removesuffix(".exe") == "transformers-arm"


if not _is_the_command():
    import_module(".registering", __name__).register()
