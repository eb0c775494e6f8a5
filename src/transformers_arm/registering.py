"""Makes transformers' Auto classes and `pipeline`, and diffusers' `DiffusionPipeline`, know ARM. Importing it does
nothing yet, and takes a while.

Knows nothing about who registers: the package as it is imported, or the command before it runs a subcommand.
"""

from functools import cache

import diffusers
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
from .image_processing_arm import ArmImageProcessor
from .interleaved_pipeline_arm import ArmInterleavedPipeline
from .modeling_arm import ArmForCausalLM, ArmModel
from .modeling_arm_vq import ArmVQModel
from .modeling_arm_vq_pretraining import ArmVQForPreTraining
from .pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline
from .processing_arm import ArmProcessor
from .renderers_arm import detokenizer_classes


class WithRenderers(type(diffusers)):
    """diffusers' module with the renderers' classes, which are imported when one is asked for.

    `DiffusionPipeline.from_pretrained` takes the class that a folder names from there, and from nowhere else.
    """

    def __getattr__(self, name: str):
        if name.startswith("Arm") and name in (classes := detokenizer_classes()):
            return classes[name]
        return super().__getattr__(name)


@cache  # transformers warns of a pipeline that is registered again
def register() -> None:
    """Makes transformers' Auto classes and `pipeline`, and diffusers' `DiffusionPipeline`, know ARM; called again, it
    does nothing.
    """
    diffusers.__class__ = WithRenderers
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
        ("interleaved", ArmInterleavedPipeline),
    ):
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=pipeline_class, pt_model=AutoModelForCausalLM, type="multimodal"
        )
