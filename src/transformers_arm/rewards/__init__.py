"""Reward callables for reinforcement learning; `training.grpo.ArmGRPOTrainer` says how they are called."""

from .errors import RewardError
from .judge import JudgeError, VLMJudge
from .preservation import EditPreservation
from .rubrics import RUBRICS, Rubric
from .similarity import ImageTextSimilarity
from .world import world_alignment, world_consistency, world_instruction, world_preservation, world_quality

__all__ = [
    "RUBRICS",
    "EditPreservation",
    "ImageTextSimilarity",
    "JudgeError",
    "RewardError",
    "Rubric",
    "VLMJudge",
    "world_alignment",
    "world_consistency",
    "world_instruction",
    "world_preservation",
    "world_quality",
]
