"""`evaluate` metrics of the embedded world; each folder also loads alone, by `evaluate.load("path/to/folder")`."""

from .arm_editing.arm_editing import ArmEditing
from .arm_generation.arm_generation import ArmGeneration
from .arm_reconstruction.arm_reconstruction import ArmReconstruction
from .arm_understanding.arm_understanding import ArmUnderstanding
from .arm_zero_shot.arm_zero_shot import ArmZeroShot

__all__ = ["ArmEditing", "ArmGeneration", "ArmReconstruction", "ArmUnderstanding", "ArmZeroShot"]
