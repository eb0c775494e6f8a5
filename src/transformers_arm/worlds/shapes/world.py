"""The drawn world as a plug: what `data.world.World` asks for, each from its own file."""

from collections.abc import Iterator, Sequence
from os import PathLike

from datasets import Dataset
from PIL import Image

from ...data.world import Sheet, World, takes
from ...evaluation.arm import Arm
from ...evaluation.sheets import picture_sheet
from .demo import sheets
from .evaluation import all_scores, editing, generation, score_parts, understanding
from .figure_names import FIGURE_NAMES
from .metrics.arm_reconstruction.arm_reconstruction import reads_back
from .pictures import Canvas, ShapesDataset
from .prompts import GENERATION_TASKS, generation_prompts
from .requests import world_requests
from .rewards import world_alignment, world_consistency, world_instruction, world_preservation, world_quality
from .tasks import WorldTasks
from .text import WorldText

SHOWN = 16  # pictures on the sheet of a look


class ShapesWorld(World):
    """Scenes of up to three shapes on a flat ground, which can be read back exactly (`reader`)."""

    figure_names = FIGURE_NAMES
    rewards = {
        reward.__name__: reward
        for reward in (world_alignment, world_consistency, world_instruction, world_preservation, world_quality)
    }

    @takes(ShapesDataset)
    def pictures(
        self, length: int, *, seed: int, batch_size: int = 1, canvases: Sequence[Canvas] = (Canvas(),), **arguments
    ) -> ShapesDataset:
        return ShapesDataset(length, seed=seed, batch_size=batch_size, canvases=canvases, **arguments)

    @takes(WorldText)
    def documents(self, length: int, *, seed: int, **arguments) -> WorldText:
        return WorldText(length, seed=seed, **arguments)

    @takes(WorldTasks)
    def tasks(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int = 1,
        per_step: int = 1,
        curriculum: Sequence[int] = (0, 0),
        canvases: Sequence[Canvas] = (Canvas(),),
        **arguments,
    ) -> WorldTasks:
        """`WorldTasks`.

        Args:
            curriculum: steps until scenes may have two objects, and three.
            canvases: what pictures are drawn on.
        """
        bounds = tuple(step * per_step for step in curriculum)
        return WorldTasks(length, seed=seed, batch_size=batch_size, curriculum=bounds, canvases=canvases, **arguments)

    @takes(world_requests)
    def requests(self, count: int, *, seed: int, canvases: Sequence[Canvas] | None = None, **arguments) -> Dataset:
        return world_requests(count, seed=seed, canvases=canvases, **arguments)

    def reconstruction_scores(self, returned: Sequence, originals: Sequence) -> dict[str, float]:
        """`read_back`: the share of pictures that read as their originals do."""
        pairs = list(zip(returned, originals, strict=True))
        return {"read_back": sum(reads_back(*pair) for pair in pairs) / len(pairs)}

    def look(self, arm: Arm, *, count: int, seed: int) -> tuple[dict[str, float], Image.Image]:
        """Six tasks, full captions, exact edits and answers of training scenes; drawn full captions."""
        settings = {"count": count, "seed": seed, "split": "train"}
        drawn = generation(arm, tasks=(*GENERATION_TASKS, "full"), **settings)
        scores = {
            "generation": drawn["overall"],
            "full": drawn["full"],
            "editing": editing(arm, **settings)["exact"],
            "understanding": understanding(arm, **settings)["overall"],
        }
        prompts = generation_prompts("full", SHOWN, seed=seed, split="train")
        return scores, picture_sheet([arm.draw(prompts, seed=seed)])

    def scores(self, folder: str | PathLike, *, count: int, seed: int) -> dict[str, float]:
        return all_scores(folder, count=count, seed=seed)

    def scores_as_they_come(self, folder: str | PathLike, *, count: int, seed: int) -> Iterator[dict[str, float]]:
        return score_parts(folder, count=count, seed=seed)

    def sheets(self, folder: str | PathLike, *, seed: int) -> Iterator[Sheet]:
        return sheets(folder, seed=seed)
