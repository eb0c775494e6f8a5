"""Scores generated pictures of the embedded world per prompt, right or wrong, as GenEval does."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import datasets
import evaluate

from transformers_arm.worlds.shapes.prompts import GENERATION_TASKS, names_held_out_pair
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scores import picture_is_right

_DESCRIPTION = """\
A picture is right if it holds exactly the objects its prompt names, with every attribute, relation, count, cell and
background the prompt states. Pictures are read back by template matching.
"""
_INPUTS = """
Args:
    predictions: pictures (PIL), with sides of 32 to 192 px.
    prompts: the captions they were generated from.
    tasks: the task of each prompt; GenEval's six, "full", or any other name to score apart.

Returns:
    The share of right pictures (0..1) of each task; "overall", the mean of GenEval's six tasks, if all six are there;
    "composition", the share over all prompts that name a held-out pair, whatever their task: no task counts them.
"""
_CITATION = """\
@inproceedings{ghosh2023geneval,
  title={GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment},
  author={Ghosh, Dhruba and Hajishirzi, Hannaneh and Schmidt, Ludwig},
  booktitle={NeurIPS Datasets and Benchmarks},
  year={2023}
}
"""


def generation_scores(
    images: Sequence, prompts: Sequence[str], tasks: Sequence[str], read: Callable = read_scene
) -> dict[str, float]:
    """Share of right pictures, by what `read` says they show, per task, of compositions, and over the six tasks; see
    the metric's inputs.

    Raises:
        ValueError: a prompt that is no caption of the language, or a picture with a side outside 32..192 px.
    """
    right = defaultdict(list)
    for image, prompt, task in zip(images, prompts, tasks, strict=True):
        right["composition" if names_held_out_pair(prompt) else task].append(picture_is_right(prompt, image, read))
    scores = {task: sum(found) / len(found) for task, found in right.items()}
    if all(task in scores for task in GENERATION_TASKS):
        scores["overall"] = sum(scores[task] for task in GENERATION_TASKS) / len(GENERATION_TASKS)
    return scores


class ArmGeneration(evaluate.Metric):
    """`evaluate` metric over `generation_scores`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Image(),
                    "prompts": datasets.Value("string"),
                    "tasks": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, prompts, tasks):
        return generation_scores(predictions, prompts, tasks)
