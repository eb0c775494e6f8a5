"""Folders to publish with their cards, and what of them is refused or arrives."""

import json
import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from transformers_arm.evaluation.results import write_result
from transformers_arm.hub.push import staged

TABLE = """
# A model

| score | measured | before |
|---|---|---|
| one | 0.874 | +- 0.012 |
| gain, of 2.13.0 and Qwen2.5, `9.99` | **-0.022** | 1,234.5 |
"""


def write_card(folder, text=TABLE, *, value=0.8737, field="scores/one", command=None, **data):
    """A card whose figures are those of results/scores.json, which is written too."""
    numbers = {"scores": {"one": 0.8737, "spread": [0.0123]}, "gain": -0.0218, "seconds": 1234.5, "nothing": None}
    write_result(folder / "results" / "scores.json", **numbers)
    result = json.loads((folder / "results" / "scores.json").read_text())
    backing = {"file": "results/scores.json", "field": field, "date": result["date"]}
    metric = EvalResult(
        task_type="text-to-image",
        dataset_type="shapes",
        dataset_name="shapes",
        metric_type="accuracy",
        metric_value=value,
        metric_args={**backing, "command": command or result["command"]},
    )
    origin = {} if data.get("base_model") else {"trained_from_scratch": True}
    given = {"license": "apache-2.0", "model_name": "a model", "eval_results": [metric], **origin, **data}
    metadata = ModelCardData(**given)
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}").save(folder / "README.md")


def edit_json(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def copied(source, folder):
    return shutil.copytree(source, folder, ignore=shutil.ignore_patterns("backbones"))


def refused(folder, message, **options):
    with pytest.raises(ValueError, match=message), staged(folder, "org/arm", **options):
        pass


def files_of(hub, repo_id, revision="main"):
    return hub.repos[repo_id].at(revision).files
