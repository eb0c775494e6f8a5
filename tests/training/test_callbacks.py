"""Looks into a training: what is drawn, edited and answered on the way, while the training goes on as without them."""

import json
import random

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from peft import get_peft_model
from PIL import Image, ImageOps
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import pipeline

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.world import find_world
from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.sheets import LABEL_LINES, LINE_HEIGHT
from transformers_arm.renderers_arm import load_detokenizer
from transformers_arm.sizes.adapters import lora_config
from transformers_arm.training import conversations
from transformers_arm.training.callbacks import (
    SAMPLE_SIDE,
    SamplesCallback,
    WorldScoresCallback,
    load_rows,
    read_sample,
)
from transformers_arm.training.recipe import parse
from transformers_arm.training.trainer import ArmTrainer, training_arguments
from transformers_arm.worlds.shapes.captions import parse_caption
from transformers_arm.worlds.shapes.edits import apply_edit
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject

MIXTURE = {"text": 1.0, "image_to_text": 1.0, "text_to_image": 1.0, "editing": 1.0}
SCORES = {"eval_generation", "eval_full", "eval_editing", "eval_understanding"}
PICTURE = Image.effect_noise((96, 48), 60).convert("RGB")
ROWS = [
    {"prompt": "a red circle"},
    {"question": "what is it?", "image": PICTURE},
    {"prompt": "make it green", "source_image": PICTURE},
    {"prompt": "two blue squares on a gray ground, one of them small"},
    {"question": "which colors are there?", "image": None},
]


def scene_of(items, background):
    return Scene(tuple(SceneObject(item.shape, item.color, item.size, item.cell) for item in items), background)


def scene_in(image):
    reading = read_scene(image)
    return scene_of(reading.objects, reading.background)


@pytest.fixture(scope="module")
def parts(arm_folder):
    model = ArmForCausalLM.from_pretrained(arm_folder, attention_dropout=0.1)
    return model, ArmProcessor.from_pretrained(arm_folder), load_detokenizer(arm_folder)


@pytest.fixture
def trainer(parts, tmp_path):
    """A trainer of the model after its second step."""
    arguments = training_arguments({"use_cpu": True, "report_to": "none", "disable_tqdm": True}, output_dir=tmp_path)
    trainer = ArmTrainer(parts[0], arguments)
    trainer.state.global_step = 2
    return trainer


@pytest.fixture
def look(parts, trainer):
    """Ends the step with a callback of the world's scores."""

    def end_step():
        trainer.add_callback(WorldScoresCallback(trainer, find_world("shapes"), *parts[1:], every=2, count=8))
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)

    return end_step


@pytest.fixture
def show(parts, trainer):
    """Ends the step with a callback of one's own rows, with a detokenizer or without."""

    def end_step(rows=ROWS, *, draws=True, **settings):
        detokenizer = parts[2] if draws else None
        trainer.add_callback(SamplesCallback(trainer, parts[1], rows, 2, detokenizer, max_new_tokens=8, **settings))
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)

    return end_step


def tiles(sheet):
    """The pictures of a labelled sheet, in rows."""
    label = LABEL_LINES * LINE_HEIGHT
    return [
        [
            sheet.crop((left, top + label, left + SAMPLE_SIDE, top + label + SAMPLE_SIDE))
            for left in range(0, sheet.width, SAMPLE_SIDE)
        ]
        for top in range(0, sheet.height, label + SAMPLE_SIDE)
    ]


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_it_logs_four_scores_and_writes_a_sheet(look, trainer, tmp_path, capsys):
    look()
    (log,) = trainer.state.log_history
    assert set(log) == {"step"} | SCORES
    assert log["step"] == 2
    assert all(0 <= log[name] <= 1 for name in SCORES)
    assert Image.open(tmp_path / "samples" / "step-0000002.png").size == (16 * 48, 48)
    assert "eval_editing" in capsys.readouterr().out


@pytest.mark.parametrize("callback", ["look", "show"])
@pytest.mark.parametrize(("step", "first"), [(3, True), (2, False)])
def test_they_look_only_when_due_and_in_one_process(request, callback, trainer, tmp_path, step, first):
    trainer.state.global_step, trainer.state.is_world_process_zero = step, first
    request.getfixturevalue(callback)()
    assert trainer.state.log_history == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("callback", ["look", "show"])
def test_they_leave_the_model_and_all_randomness_as_they_are(request, callback, parts):
    model = parts[0]
    model.train()
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    modes = {name: module.training for name, module in model.named_modules()}
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    settings = model.generation_config.to_dict()
    look = request.getfixturevalue(callback)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    look()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trained
    left = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert left.keys() == gradients.keys() and gradients
    assert all(torch.equal(left[name], value) for name, value in gradients.items())
    assert model.generation_config.to_dict() == settings
    model.zero_grad()


def test_it_looks_at_training_scenes_only(look, monkeypatch):
    given = {"draw": [], "edit": [], "answer": []}

    def noting(plain, items):
        def note(self, *args, **kwargs):
            items.append(args)
            return plain(self, *args, **kwargs)

        return note

    for name, items in given.items():
        monkeypatch.setattr(Arm, name, noting(getattr(Arm, name), items))
    look()
    (scored,), (shown,) = given["draw"]
    full = [spec for spec in map(parse_caption, [*scored, *shown]) if spec.background]
    assert len(full) == 8 + 16
    assert {scene_of(spec.nouns, spec.background).split for spec in full} == {"train"}
    ((images, prompts),) = given["edit"]
    assert {apply_edit(scene_in(image), prompt).split for image, prompt in zip(images, prompts, strict=True)} == {
        "train"
    }
    ((images, _),) = given["answer"]
    assert {scene_in(image).split for image in images} == {"train"}


def test_training_ends_in_the_same_weights_with_and_without_it(arm_folder, tmp_path, monkeypatch):
    logs, dropping, rows = {}, str(tmp_path / "dropping"), str(tmp_path / "rows.yaml")
    (tmp_path / "rows.yaml").write_text("[{prompt: a red circle}, {question: what color is it}]")
    ArmForCausalLM.from_pretrained(arm_folder, dtype="float32", attention_dropout=0.1).save_pretrained(dropping)
    ArmProcessor.from_pretrained(arm_folder).save_pretrained(dropping)

    class Remembering(WorldScoresCallback):
        def on_train_end(self, args, state, control, **kwargs):
            logs[args.output_dir] = state.log_history

    monkeypatch.setattr(conversations, "WorldScoresCallback", Remembering)

    def train(name, every):
        recipe = {
            "start_from": dropping,
            "output_dir": str(tmp_path / name),
            "data": {"world": "shapes", "arguments": {"mixture": MIXTURE}},
            "evaluation": {"detokenizer": f"{arm_folder}/detokenizer", "every": every, "count": 8},
            "samples": {"rows": rows, "detokenizer": f"{arm_folder}/detokenizer", "every": every, "max_new_tokens": 8},
            "generation": {"max_new_tokens": 7, "image_generation": {"temperature": 0.5}},
            "training": {
                **{"seed": 0, "use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 2},
                **{"learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
            },
        }
        conversations.train_on_conversations(parse(conversations.ConversationsRecipe, recipe, name))
        return tmp_path / name

    with_looks, without = train("with", 2), train("without", 100)
    assert [log["step"] for log in logs[str(with_looks)] if set(log) >= SCORES] == [2, 4]
    assert not [log for log in logs[str(without)] if set(log) & SCORES]
    (events,) = with_looks.glob("runs/*/events.*")
    events = EventAccumulator(str(events)).Reload()
    for name in SCORES:
        logged = [(event.step, event.value) for event in events.Scalars(name.replace("_", "/", 1))]
        expected = [(log["step"], pytest.approx(log[name])) for log in logs[str(with_looks)] if name in log]
        assert logged == expected
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    for name in ("samples", "requests"):
        assert [event.step for event in events.Images(name)] == [2, 4]
    assert [event.step for event in events.Tensors("requests/text_summary")] == [2, 4]
    ours, theirs, first = (
        load_file(f"{folder}/model.safetensors") for folder in (with_looks / "model", without / "model", arm_folder)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, first[name]) for name, value in ours.items())
    saved = ArmForCausalLM.from_pretrained(with_looks / "model")
    assert saved.generation_config.max_new_tokens == 7
    assert saved.generation_config.image_generation == {"temperature": 0.5}
    ArmProcessor.from_pretrained(with_looks / "model")


# --- rows of one's own ----------------------------------------------------------------------------------------------


def test_rows_are_drawn_edited_and_answered(show, tmp_path):
    show()
    sheet = Image.open(tmp_path / "requests" / "step-0000002.png")
    rows = tiles(sheet)
    assert [len(row) for row in rows] == [2, 2, 2]  # two drawings, with nothing beside them, and an edit
    blank = Image.new("RGB", (SAMPLE_SIDE, SAMPLE_SIDE), "white")
    assert [[same(tile, blank) for tile in row] for row in rows] == [[False, True], [False, True], [False, False]]
    assert same(rows[2][0], ImageOps.pad(PICTURE, blank.size, color="white"))
    label = sheet.crop((0, 0, sheet.width, LABEL_LINES * LINE_HEIGHT))
    assert label.convert("L").getextrema()[0] < 100  # letters
    lines = (tmp_path / "requests" / "step-0000002.txt").read_text().splitlines()
    asked = [*(ROWS[row]["prompt"] for row in (0, 3, 2)), "what is it?", "which colors are there?"]
    assert [line.split(" -> ")[0] for line in lines] == asked
    assert [" -> " in line for line in lines] == [False, False, False, True, True]


def test_pictures_and_answers_are_the_pipelines(show, arm_folder, tmp_path):
    show(seed=5)
    generator = torch.Generator().manual_seed(5)
    drawn = pipeline("text-to-image", model=arm_folder, dtype="float32")(ROWS[0]["prompt"], generator=generator)
    generator.manual_seed(5)
    edit = pipeline("image-editing", model=arm_folder, dtype="float32")
    edited = edit(PICTURE, ROWS[2]["prompt"], generator=generator)
    rows = tiles(Image.open(tmp_path / "requests" / "step-0000002.png"))
    for tile, picture in ((rows[0][0], drawn), (rows[2][1], edited)):
        expected = ImageOps.pad(picture, tile.size, color="white")
        assert np.abs(np.asarray(tile).astype(int) - np.asarray(expected)).max() <= 2
    ask = pipeline("image-text-to-text", model=arm_folder, dtype="float32")
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what is it?"}]
    asked = ask(text=[{"role": "user", "content": content}], return_full_text=False, max_new_tokens=8)
    answer = " ".join(asked[0]["generated_text"].split())
    assert f"\nwhat is it? -> {answer}\n" in (tmp_path / "requests" / "step-0000002.txt").read_text()


def test_without_a_detokenizer_questions_alone_are_answered(show, tmp_path):
    show(draws=False)
    (file,) = (tmp_path / "requests").iterdir()
    assert file.name == "step-0000002.txt"
    assert [line.split(" -> ")[0] for line in file.read_text().splitlines()] == ["what is it?", ROWS[4]["question"]]


def test_rows_that_nothing_can_show_are_refused(show):
    with pytest.raises(ValueError, match="Of 1 rows none can be shown: add a detokenizer"):
        show(ROWS[:1], draws=False)


def test_a_model_with_adapters_is_looked_at_as_it_is(parts, trainer, show, tmp_path, arm_folder):
    show()
    plain = (tmp_path / "requests" / "step-0000002.txt").read_text()
    model = ArmForCausalLM.from_pretrained(arm_folder)
    adapted = get_peft_model(model, lora_config(model, r=2))
    for moved, expected in ((0.0, True), (1.0, False)):
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=moved)
        trainer.callback_handler.model = adapted
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
        assert ((tmp_path / "requests" / "step-0000002.txt").read_text() == plain) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a red circle", "Row 3 is 'a red circle', but must be a dict"),
        ({"image": PICTURE}, "column 'prompt': a 'prompt' asks for a picture, a 'question' for a text"),
        ({"prompt": "a", "question": "b"}, "Fill in one of the two"),
        ({"prompt": " "}, "column 'prompt': ' ' is blank"),
        ({"prompt": "a", "image": PICTURE}, "column 'image': a 'prompt' edits one 'source_image'"),
        ({"prompt": "a", "source_images": [PICTURE]}, "column 'source_images': a 'prompt' edits one"),
        ({"question": "a", "source_image": PICTURE}, "column 'source_image': .* a 'question' is about one 'image'"),
        ({"question": "a", "image": "missing.png"}, "column 'image': .*missing.png"),
        ({"question": "a", "image": {"codes": [1], "height": 1, "width": 1}}, "codes are none. Give the picture"),
    ],
)
def test_rows_that_cannot_be_used_are_named(row, message):
    with pytest.raises(ValueError, match=f"Row 3.*{message}" if isinstance(row, dict) else message):
        read_sample(row, 3)


def test_rows_come_from_lists_files_and_datasets(tmp_path):
    rows = [{"prompt": "a \u732b"}, {"prompt": "b"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent="\t"))
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(rows))
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    dataset = {"path": "parquet", "data_files": str(tmp_path / "rows.parquet"), "split": "train"}
    for each in (rows, str(tmp_path / "rows.json"), str(tmp_path / "rows.yaml"), dataset):
        assert list(load_rows(each)) == rows
    (tmp_path / "rows.yaml").write_text("prompt: a")
    with pytest.raises(ValueError, match="rows.yaml holds a dict, but must hold a list of rows"):
        load_rows(str(tmp_path / "rows.yaml"))
