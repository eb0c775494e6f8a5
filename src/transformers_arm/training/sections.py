"""Sections that several stages' recipes have: where data come from, how long training runs, what is shown on the way.

Knows no stage. Each type's fields are the arguments of what takes them; see `recipe.section`.
"""

import difflib
from collections.abc import Iterator
from typing import Any, ClassVar

from peft import LoraConfig
from pydantic import Field
from transformers import GenerationConfig, TrainingArguments

from ..data.mixture import Source
from ..data.world import World, find_world
from ..sampling_arm import IMAGE_EDITING, IMAGE_GENERATION
from ..sizes.adapters import lora_config, quantization
from .callbacks import SamplesCallback, WorldScoresCallback
from .recipe import Section, explained_values, section


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

    dataset: dict[str, Any] | None = Field(None, description='Arguments of `datasets.load_dataset`; split "train".')
    world: str | None = Field(None, description="In its place: name of a world, which draws conversations.")
    arguments: dict[str, Any] = Field({}, description="Of the world's tasks.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.dataset is None) == (self.world is None):
            yield "", "a source needs either 'dataset' (of load_dataset) or 'world' (the name of one)."
        elif self.world is not None:
            yield from TasksOfWorld(world=self.world, arguments=self.arguments).problems()
        elif self.arguments:
            yield "arguments", "they are a world's, and this source has a dataset; leave them out."


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
                fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(IMAGE_GENERATION))}."
                yield f"{place}{name}", f"generate does not know it; {fix}"


Training = section("Training", TrainingArguments, without=("output_dir",))
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
