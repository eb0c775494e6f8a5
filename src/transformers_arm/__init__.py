"""ARM (arXiv 2606.11188): one autoregressive transformer that understands, generates and edits images.

Importing this package registers its models with transformers' Auto classes, and its pipelines.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_arm import ArmConfig, ArmVQConfig
from .detokenizer_arm_pixel import ArmPixelDetokenizer
from .image_processing_arm import ArmImageProcessor
from .modeling_arm import ArmForCausalLM, ArmModel
from .modeling_arm_vq import ArmVQModel
from .modeling_arm_vq_pretraining import ArmVQForPreTraining
from .pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline
from .pixel_transformer_arm import ArmPixelTransformer
from .processing_arm import ArmProcessor

__version__ = "0.1.0.dev0"
__all__ = [
    "ArmConfig",
    "ArmForCausalLM",
    "ArmImageEditingPipeline",
    "ArmImageProcessor",
    "ArmModel",
    "ArmPixelDetokenizer",
    "ArmPixelTransformer",
    "ArmProcessor",
    "ArmTextToImagePipeline",
    "ArmVQConfig",
    "ArmVQForPreTraining",
    "ArmVQModel",
    "register",
]


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
