"""All renderers, for diffusers where the package is missing: the file that a folder with its code names.

diffusers copies what the named file imports, and nothing that only those files import, so all stand here. Nothing in
the package imports this.
"""

from .attention_arm import PartsAttentionMixin as PartsAttentionMixin
from .configuration_arm import ArmVQConfig as ArmVQConfig
from .connector_arm import ArmConnector as ArmConnector
from .detokenizer_arm import ArmDetokenizer as ArmDetokenizer
from .detokenizer_arm_flux import ArmFluxDetokenizer as ArmFluxDetokenizer
from .detokenizer_arm_flux2 import ArmFlux2Detokenizer as ArmFlux2Detokenizer
from .detokenizer_arm_latent import ArmLatentDetokenizer as ArmLatentDetokenizer
from .detokenizer_arm_pixel import ArmPixelDetokenizer as ArmPixelDetokenizer
from .detokenizer_arm_sana import ArmSanaDetokenizer as ArmSanaDetokenizer
from .loading_arm import SafetensorsOnlyMixin as SafetensorsOnlyMixin
from .modeling_arm_vq import ArmVQModel as ArmVQModel
from .pixel_transformer_arm import ArmPixelTransformer as ArmPixelTransformer
