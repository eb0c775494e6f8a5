"""The emoji world as a plug: what `data.world.World` asks for, each from its own file."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from ...data.world import World, takes
from .pictures import EmojiDataset
from .splits import SEEN_BY_TOKENIZER


class EmojiWorld(World):
    """Real pictures with names: emoji of three styles."""

    @takes(EmojiDataset)
    def pictures(
        self, length: int, *, seed: int, batch_size: int = 1, of: Sequence[str] = SEEN_BY_TOKENIZER
    ) -> Dataset:
        """Nothing that the tokenizer must not have seen, unless `of` names it."""
        return EmojiDataset(length, seed, of)
