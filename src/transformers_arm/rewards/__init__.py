"""Reward callables for reinforcement learning; `training.grpo.ArmGRPOTrainer` says how they are called."""

from .errors import RewardError
from .judge import JudgeError, VLMJudge
from .preservation import EditPreservation
from .rubrics import RUBRICS, Rubric
from .similarity import ImageTextSimilarity

__all__ = ["RUBRICS", "EditPreservation", "ImageTextSimilarity", "JudgeError", "RewardError", "Rubric", "VLMJudge"]
