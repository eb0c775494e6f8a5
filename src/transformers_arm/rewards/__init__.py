"""Reward callables for reinforcement learning; `training.grpo.ArmGRPOTrainer` says how they are called."""

from .errors import RewardError
from .preservation import EditPreservation
from .similarity import ImageTextSimilarity
from .world import world_alignment, world_instruction, world_preservation, world_quality

__all__ = [
    "EditPreservation",
    "ImageTextSimilarity",
    "RewardError",
    "world_alignment",
    "world_instruction",
    "world_preservation",
    "world_quality",
]
