"""A recipe's validation: held-out rows of each source, or of a world, have their loss told while a stage trains."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from mixture_sources import drawn, texts
from PIL import Image
from short_trainings import MODEL
from transformers import TrainerCallback

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.conversations import ConversationCollator, message
from transformers_arm.training import conversations, detokenizer, tokenizer
from transformers_arm.training.recipe import RecipeError, parse
from transformers_arm.training.validation import sets_of_world

TRAINING = {
    **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1},
    **{"per_device_train_batch_size": 1, "max_steps": 4, "learning_rate": 1e-3},
}


@pytest.fixture
def histories(monkeypatch):
    """The logs of all trainings, one after the other."""
    found = []

    class Remembering(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            found.append(state.log_history)

    for stage in (conversations, tokenizer, detokenizer):
        plain = stage.train

        def remembering(trainer, plain=plain):
            trainer.add_callback(Remembering())
            plain(trainer)

        monkeypatch.setattr(stage, "train", remembering)
    return found


def steps_with(history, name):
    return [log["step"] for log in history if name in log]


@pytest.fixture
def pictures(tmp_path):
    """A dataset of one's own: captioned pictures of two shapes."""
    generator = np.random.default_rng(0)
    sides = [(48, 48), (32, 64)] * 8
    images = [Image.fromarray(generator.integers(0, 256, (*side, 3), np.uint8)) for side in sides]
    rows = {"prompt": [f"picture {number}" for number in range(16)], "image": images}
    file = str(tmp_path / "pictures.parquet")
    Dataset.from_dict(rows).to_parquet(file)
    return {"own": {"dataset": {"path": "parquet", "data_files": file}}}


def pretraining(arm_folder, output, sources, **sections):
    recipe = {
        "start_from": arm_folder,
        "output_dir": str(output),
        "data": {"token_budget": 96, "streams": 2, "sources": sources},
        "training": TRAINING,
    }
    return parse(conversations.ConversationsRecipe, recipe | sections, "recipe")


def test_a_packed_mixture_tells_the_loss_of_each_source(arm_folder, tmp_path, histories):
    files = {"words": texts(40), "drawn": drawn(12)}
    for name, rows in files.items():
        rows.to_parquet(tmp_path / f"{name}.parquet")
    sources = {
        name: {"dataset": {"path": "parquet", "data_files": str(tmp_path / f"{name}.parquet")}} for name in files
    }
    recipe = pretraining(arm_folder, tmp_path / "run", sources, validation={"rows": 3, "every": 2})
    conversations.train_on_conversations(recipe)
    (history,) = histories
    for name in files:
        assert steps_with(history, f"eval_{name}_loss") == [2, 4]
    assert steps_with(history, "eval_drawn_loss_image") == [2, 4] and not steps_with(history, "eval_words_loss_image")
    # The same of the model that was saved, by the conversations that stand last in the file.
    model = ArmForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype="float32").eval()
    collator = ConversationCollator(
        ArmProcessor.from_pretrained(arm_folder).tokenizer, model.model.vq_model, model.config
    )
    kept = [
        [message(role, row[column]) for role, column in (("user", "prompt"), ("assistant", "answer"))]
        for row in files["words"].select(range(37, 40))
    ]
    with torch.no_grad():
        expected = model(**collator(kept)).loss.item()
    (last,) = (log["eval_words_loss"] for log in history if log["step"] == 4 and "eval_words_loss" in log)
    assert last == pytest.approx(expected, abs=1e-3)


def test_other_sources_may_be_the_ones_to_validate_by(arm_folder, tmp_path):
    texts(40).to_parquet(tmp_path / "words.parquet")
    texts(5, 100).to_parquet(tmp_path / "others.parquet")
    sources, others = (
        {name: {"dataset": {"path": "parquet", "data_files": str(tmp_path / f"{name}.parquet")}}}
        for name in ("words", "others")
    )
    recipe = pretraining(arm_folder, tmp_path, sources, validation={"rows": 3, "sources": others})
    trainer, _ = conversations.new_trainer(recipe)
    assert trainer.train_dataset.mixture.held_out == 0 and list(trainer.eval_dataset) == ["others"]
    Dataset.from_dict({"caption": ["a"]}).to_parquet(tmp_path / "others.parquet")
    with pytest.raises(ValueError, match="Validation of source 'others': none of its 1 rows can be used.*caption"):
        conversations.new_trainer(recipe)
    recipe = pretraining(arm_folder, tmp_path, sources, validation={"rows": 40})
    with pytest.raises(ValueError, match="Source words/.* has 40 rows, of which validation holds out 40"):
        conversations.new_trainer(recipe)


def test_when_is_said_in_one_place(arm_folder, tmp_path):
    with pytest.raises(RecipeError, match="training.eval_steps: validation.every says when; leave it out"):
        pretraining(arm_folder, tmp_path, {}, validation={}, training=TRAINING | {"eval_steps": 5})


def test_a_world_s_tasks_are_held_out_behind_those_of_the_run(arm_folder, tmp_path, histories):
    data = {"world": "shapes", "arguments": {"mixture": {"text": 0.5, "text_to_image": 0.5}}}
    sections = {"data": data, "validation": {"rows": 6, "every": 4}}
    recipe = pretraining(arm_folder, tmp_path, {}, **sections)
    conversations.train_on_conversations(recipe)
    (history,) = histories
    assert steps_with(history, "eval_shapes_loss") == [4] == steps_with(history, "eval_shapes_loss_text")


def tokenizer_recipe(backbones, output, data, **sections):
    recipe = {
        "output_dir": str(output),
        "backbones": backbones,
        "model": MODEL | {"pixel_regression_share": 0.5},
        "image_processor": {"size": {"height": 48, "width": 48}, "keep_aspect_ratio": True},
        "data": data,
        "training": TRAINING,
    }
    return parse(tokenizer.TokenizerRecipe, recipe | sections, "recipe")


def test_a_tokenizer_s_own_pictures_are_held_out_and_looked_at(tiny_backbones, tmp_path, pictures, histories):
    data = {"pixel_budget": 8192, "streams": 1, "sources": pictures}
    looks = {"validation": {"rows": 5, "every": 2}, "evaluation": {"every": 2, "pictures": 4, "steps": 1}}
    tokenizer.train_tokenizer(tokenizer_recipe(tiny_backbones, tmp_path / "run", data, **looks))
    (history,) = histories
    for name in ("eval_own_loss", "eval_own_loss_pixel_at_noise", "eval_own_loss_caption", "eval_psnr"):
        assert steps_with(history, name) == [2, 4], name
    sheet = Image.open(tmp_path / "run" / "reconstructions" / "step-0000004.png")
    assert sheet.size == (4 * 384, 2 * 384)  # of several shapes, each as it is
    assert steps_with(history, "eval_codes_used") == steps_with(history, "eval_retrieval") == [2, 4]


def test_a_world_s_pictures_are_held_out_in_whole_batches(tiny_backbones, tmp_path, histories):
    canvases = {"canvases": [{}, {"height": 32, "width": 64}]}
    data = {"world": "shapes", "arguments": canvases}
    training = TRAINING | {"per_device_eval_batch_size": 4, "per_device_train_batch_size": 3, "max_steps": 2}
    sections = {"validation": {"rows": 9, "every": 2}, "training": training}
    recipe = tokenizer_recipe(tiny_backbones, tmp_path / "run", data, **sections)
    arguments = tokenizer.training_arguments(training, output_dir=str(tmp_path))
    (held,) = sets_of_world(recipe.validation, recipe.data, arguments).values()
    assert len(held) == 12  # whole batches
    shapes = [held[index]["image"].shape for index in range(12)]
    assert all(len(set(shapes[first : first + 4])) == 1 for first in (0, 4, 8)) and len(set(shapes)) == 2
    tokenizer.train_tokenizer(recipe)
    pretrained = str(tmp_path / "run" / "pretraining")
    detokenizer.train_detokenizer(
        parse(
            detokenizer.DetokenizerRecipe,
            {
                **{"output_dir": str(tmp_path / "renderer"), "pretraining": pretrained, "regression_share": 0.5},
                **{"condition_dropout": 0.1, "pipeline_defaults": {}, "data": data, "evaluation": {"pictures": 2}},
                **sections,
            },
            "recipe",
        )
    )
    assert [steps_with(history, "eval_shapes_loss") for history in histories] == [[2], [2]]
    assert steps_with(histories[1], "eval_shapes_loss_pixel_at_noise") == [2]
