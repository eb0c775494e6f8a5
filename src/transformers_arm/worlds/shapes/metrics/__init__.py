"""`evaluate` metrics of the drawn world; each folder also loads alone, by `evaluate.load("path/to/folder")`."""

from .arm_editing.arm_editing import ArmEditing
from .arm_generation.arm_generation import ArmGeneration
from .arm_reconstruction.arm_reconstruction import ArmReconstruction

__all__ = ["ArmEditing", "ArmGeneration", "ArmReconstruction"]
