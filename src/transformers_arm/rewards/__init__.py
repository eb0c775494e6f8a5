"""Reward callables for reinforcement learning; `training.grpo.ArmGRPOTrainer` says how they are called."""

from .world import world_alignment, world_instruction, world_preservation, world_quality

__all__ = ["world_alignment", "world_instruction", "world_preservation", "world_quality"]
