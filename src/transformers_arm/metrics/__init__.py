"""`evaluate` metrics that know no world; each folder also loads alone, by `evaluate.load("path/to/folder")`."""

from .arm_codebook.arm_codebook import ArmCodebook
from .arm_fid.arm_fid import ArmFid
from .arm_fidelity.arm_fidelity import ArmFidelity
from .arm_understanding.arm_understanding import ArmUnderstanding
from .arm_zero_shot.arm_zero_shot import ArmZeroShot

__all__ = ["ArmCodebook", "ArmFid", "ArmFidelity", "ArmUnderstanding", "ArmZeroShot"]
