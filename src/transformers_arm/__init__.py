"""ARM (arXiv 2606.11188): one autoregressive transformer that understands, generates and edits images.

Importing this package registers its models with transformers' Auto classes, and its pipelines.
"""

from importlib import import_module
from importlib.util import find_spec

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # the other name asks for torchvision
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_arm import ArmConfig, ArmVQConfig
from .detokenizer_arm_pixel import ArmPixelDetokenizer
from .diffusers_pipeline_arm import ArmPipeline
from .extras import EXTRAS, require
from .image_processing_arm import ArmImageProcessor
from .modeling_arm import ArmForCausalLM, ArmModel
from .modeling_arm_vq import ArmVQModel
from .modeling_arm_vq_pretraining import ArmVQForPreTraining
from .pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline
from .pixel_transformer_arm import ArmPixelTransformer
from .processing_arm import ArmProcessor

__version__ = "0.1.0.dev0"
# Found when they are asked for: they need trl, which only training does.
_TRAINERS = {
    "ArmGRPOConfig": "grpo",
    "ArmGRPOTrainer": "grpo",
    "ArmSFTConfig": "sft_trl",
    "ArmSFTTrainer": "sft_trl",
}
__all__ = [
    "ArmConfig",
    "ArmForCausalLM",
    "ArmGRPOConfig",
    "ArmGRPOTrainer",
    "ArmImageEditingPipeline",
    "ArmImageProcessor",
    "ArmModel",
    "ArmPipeline",
    "ArmPixelDetokenizer",
    "ArmPixelTransformer",
    "ArmProcessor",
    "ArmSFTConfig",
    "ArmSFTTrainer",
    "ArmTextToImagePipeline",
    "ArmVQConfig",
    "ArmVQForPreTraining",
    "ArmVQModel",
    "register",
]
if not all(map(find_spec, EXTRAS["rl"])):  # `import *` gives what there is
    __all__ = [name for name in __all__ if name not in _TRAINERS]


def __getattr__(name: str):
    if name not in _TRAINERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require(name, "rl")
    return getattr(import_module(f".training.{_TRAINERS[name]}", __name__), name)


def register() -> None:
    """Makes transformers' Auto classes and `pipeline` know ARM."""
    AutoConfig.register(ArmVQConfig.model_type, ArmVQConfig)
    AutoModel.register(ArmVQConfig, ArmVQModel)
    AutoModelForPreTraining.register(ArmVQConfig, ArmVQForPreTraining)
    AutoConfig.register(ArmConfig.model_type, ArmConfig)
    AutoModel.register(ArmConfig, ArmModel)
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(ArmConfig, ArmForCausalLM)
    AutoTokenizer.register(ArmConfig, Qwen2Tokenizer)
    AutoProcessor.register(ArmConfig, ArmProcessor)
    for config in (ArmVQConfig, ArmConfig):
        AutoImageProcessor.register(config, image_processor_classes={"pil": ArmImageProcessor})
    for task, pipeline_class in (
        ("text-to-image", ArmTextToImagePipeline),
        ("image-editing", ArmImageEditingPipeline),
    ):
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=pipeline_class, pt_model=AutoModelForCausalLM, type="multimodal"
        )


register()
