"""Sections that several stages' recipes have: where data come from, how long training runs, what is shown on the way.

Knows no stage. Each type's fields are the arguments of what takes them; see `recipe.section`.
"""

import difflib
from collections.abc import Iterator
from typing import Any, ClassVar

from peft import LoraConfig
from pydantic import Field
from transformers import GenerationConfig

from ..data.mixture import Source
from ..data.world import World, find_world
from ..sampling_arm import IMAGE_EDITING, IMAGE_GENERATION
from ..sizes.adapters import lora_config, quantization
from .callbacks import SamplesCallback, WorldScoresCallback
from .recipe import Section, explained_values, section
from .trainer import ArmTrainingArguments


class WorldData(Section):
    """Data that a world draws."""

    method: ClassVar[str]
    given: ClassVar[tuple[str, ...]] = ("length", "count", "seed", "batch_size", "per_step")

    world: str = Field(description="Name of the world.")
    arguments: dict[str, Any] = Field({}, description="The world's own.")

    @property
    def of(self) -> World:
        return find_world(self.world)

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            taker = getattr(self.of, self.method)
        except ValueError as error:
            yield "world", str(error)
        else:
            own = section("Arguments", taker, without=self.given)
            yield from ((f"arguments.{place}", line) for place, line in explained_values(own, self.arguments))


class PicturesOfWorld(WorldData):
    method = "pictures"


class DocumentsOfWorld(WorldData):
    method = "documents"


class TasksOfWorld(WorldData):
    method = "tasks"


class RequestsOfWorld(WorldData):
    method = "requests"


class MixtureSource(section("MixtureSource", Source, without=("dataset",))):
    """A source of a mixture, as `Source.from_recipe` takes it."""

    dataset: dict[str, Any] | None = Field(None, description='Arguments of `load_files`; split "train".')
    world: str | None = Field(None, description="In its place: name of a world, which draws conversations.")
    arguments: dict[str, Any] = Field({}, description="Of the world's tasks.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.dataset is None) == (self.world is None):
            yield "", "a source needs either 'dataset' (of load_dataset) or 'world' (the name of one)."
        elif self.world is not None:
            yield from TasksOfWorld(world=self.world, arguments=self.arguments).problems()
        elif self.arguments:
            yield "arguments", "they are a world's, and this source has a dataset; leave them out."


class Validation(Section):
    """Rows that are never trained on, whose loss is told on the way, source by source."""

    rows: int = Field(64, ge=1, description="Held out of each source, or of a world's pictures or tasks.")
    every: int = Field(1000, ge=1, description="Steps between two looks.")
    sources: dict[str, MixtureSource] | None = Field(
        None, description="In place of rows held out: other sources, of which the first rows are taken."
    )

    def problems_beside(self, data: Section, training: Section) -> Iterator[tuple[str, str]]:
        """What does not go together with a recipe's data and training."""
        if self.sources is not None and isinstance(data, WorldData):
            yield "validation.sources", "the data are a world's, which draws rows for validation itself; leave it out."
        for name in {"eval_strategy", "eval_steps"} & training.model_fields_set:
            yield f"training.{name}", "validation.every says when; leave it out."


def sources_of(name: str, taker, without: tuple[str, ...]) -> type[Section]:
    """A section of a mixture: its sources, and what its class takes."""
    field = (dict[str, MixtureSource], Field(..., description="What is drawn from, by name."))
    return section(name, taker, without=without, sources=field)


class GenerationSettings(Section):
    """Fields of the generation config that is saved with a model; `image_generation` and `image_editing` say how
    pictures are drawn and edited.
    """

    model_config = {"extra": "allow"}

    image_generation: dict[str, Any] | None = Field(None, description="How pictures are drawn.")
    image_editing: dict[str, Any] | None = Field(None, description="How they are edited, where that differs.")

    def problems(self) -> Iterator[tuple[str, str]]:
        for place, stated, known in (
            ("", self.model_extra, vars(GenerationConfig())),
            ("image_generation.", self.image_generation, IMAGE_GENERATION),
            ("image_editing.", self.image_editing, {**IMAGE_GENERATION, **IMAGE_EDITING}),
        ):
            for name in set(stated or {}) - set(known):
                near = difflib.get_close_matches(name, known, 1)
                listed = IMAGE_GENERATION if not place else known
                fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(listed))}."
                yield f"{place}{name}", f"generate does not know it; {fix}"


Training = section("Training", ArmTrainingArguments, without=("output_dir",))
Lora = section("Lora", LoraConfig, lora_config, without=("model", "fields"))
Quantization = section("Quantization", quantization)
Samples = section(
    "Samples",
    SamplesCallback,
    without=("trainer", "processor"),
    rows=(list[dict[str, Any]] | str | dict[str, Any], Field(..., description="Rows, a file of them, or a dataset.")),
    detokenizer=(str | None, Field(None, description="Folder of the renderer; without one nothing is drawn.")),
)
WorldScores = section(
    "WorldScores",
    WorldScoresCallback,
    without=("trainer", "processor", "detokenizer"),
    world=(str | None, Field(None, description="Whose items; the data's world unless stated.")),
)
