"""ARM (arXiv 2606.11188): one autoregressive transformer that understands, generates and edits images.

Importing this package registers its models with transformers' Auto classes.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining

from .configuration_arm import ArmVQConfig
from .detokenizer_arm_pixel import ArmPixelDetokenizer
from .image_processing_arm import ArmImageProcessor
from .modeling_arm_vq import ArmVQModel
from .modeling_arm_vq_pretraining import ArmVQForPreTraining
from .pixel_transformer_arm import ArmPixelTransformer

__version__ = "0.1.0.dev0"
__all__ = [
    "ArmImageProcessor",
    "ArmPixelDetokenizer",
    "ArmPixelTransformer",
    "ArmVQConfig",
    "ArmVQForPreTraining",
    "ArmVQModel",
    "register",
]


def register() -> None:
    """Makes transformers' Auto classes know ARM."""
    AutoConfig.register(ArmVQConfig.model_type, ArmVQConfig)
    AutoModel.register(ArmVQConfig, ArmVQModel)
    AutoModelForPreTraining.register(ArmVQConfig, ArmVQForPreTraining)
    AutoImageProcessor.register(ArmVQConfig, image_processor_classes={"pil": ArmImageProcessor})


register()
