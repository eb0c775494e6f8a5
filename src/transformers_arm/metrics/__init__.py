"""`evaluate` metrics; each folder also loads alone, by `evaluate.load("path/to/folder")`.

Editing, generation, understanding and read-back know the embedded world; the others take any pictures.
"""

from .arm_editing.arm_editing import ArmEditing
from .arm_fid.arm_fid import ArmFid
from .arm_fidelity.arm_fidelity import ArmFidelity
from .arm_generation.arm_generation import ArmGeneration
from .arm_reconstruction.arm_reconstruction import ArmReconstruction
from .arm_understanding.arm_understanding import ArmUnderstanding
from .arm_zero_shot.arm_zero_shot import ArmZeroShot

__all__ = [
    "ArmEditing",
    "ArmFid",
    "ArmFidelity",
    "ArmGeneration",
    "ArmReconstruction",
    "ArmUnderstanding",
    "ArmZeroShot",
]
