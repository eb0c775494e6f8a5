"""What a reward raises when training must not go on with it."""


class RewardError(RuntimeError):
    """A reward that cannot go on; it stops training."""
