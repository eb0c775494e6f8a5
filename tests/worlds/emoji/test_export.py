"""What all stages leave of an ARM of emoji becomes one small folder that ships: no second tokenizer, and its card."""

import json
import shutil

import export_emoji
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from transformers_arm.evaluation.arm import Arm
from transformers_arm.evaluation.tokenizer import Tokenizer
from transformers_arm.hub.card import unbacked_figures
from transformers_arm.worlds.emoji import judge as judging
from transformers_arm.worlds.emoji.figure_names import FIGURE_NAMES
from transformers_arm.worlds.emoji.prepare import notice

REPO = "lab/arm-emoji"


def logged(rl=()):
    """What an earlier export told of the trainings."""
    stages = export_emoji.stages_of(rl=rl)
    named = [(stage.run.removesuffix("/run").replace("/run/", "/"), stage) for stage in stages]
    return [
        {
            "stage": name,
            "command": f"{stage.launcher} trainers/{stage.trainer}.py --config arm_emoji/{stage.recipe}",
            **{"seed": 3, "steps": 7, "minutes": 40},
        }
        for name, stage in named
    ]


@pytest.fixture(scope="module")
def shipped(emoji_folder, arm_folder, tmp_path_factory):
    """An untrained ARM, as if reinforcement learning had left it."""
    folder, rl = tmp_path_factory.mktemp("export"), ["grpo_text_to_image"]
    model = folder / "runs" / "grpo_text_to_image" / "model"
    shutil.copytree(arm_folder, model, ignore=shutil.ignore_patterns("backbones", "vq_model"))
    shutil.copytree(f"{arm_folder}/detokenizer", folder / "runs" / "detokenizer" / "detokenizer")
    checkpoint = folder / "arm-emoji"
    (checkpoint / "results").mkdir(parents=True)
    (checkpoint / export_emoji.TRAINING).write_text(json.dumps({"stages": logged(rl)}))
    row = {"before": 0.25, "before_spread": 0.5, "after": 0.75, "after_spread": 0.125, "gain": 0.5}
    compared = {"command": "python grpo.py", "date": "2026-11-27", "hardware": "one", "before": "arm-emoji"}
    (folder / "arm_emoji_rl.json").write_text(json.dumps(compared | {"table": {"generation_tone": row}}))
    options = {"rl": rl, "results": [folder / "arm_emoji_rl.json"], "hardware": "a clock", "remark": "It was a try."}
    train = judging.train_judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "train_judge", lambda drawn, steps, seed: train(drawn, 2, seed=seed))
        judge = folder / "judge.safetensors"
        export_emoji.export_emoji(folder / "runs", checkpoint, count=10, judge=judge, repo=REPO, **options)
    return checkpoint


@pytest.mark.slow
def test_the_folder_is_whole_with_one_tokenizer_in_half_precision(shipped, arm_folder):
    assert not {"vq_model", "backbones", "siglip"} & {each.name for each in shipped.iterdir()}
    weights = [tensor for file in shipped.rglob("*.safetensors") for tensor in load_file(file).values()]
    assert {each.dtype for each in weights if each.is_floating_point()} == {torch.float16}
    (picture,) = Arm.from_pretrained(shipped).draw(["a cook"], height=64, width=64)
    image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    codes, _ = Tokenizer.from_pretrained(shipped).reconstruct([image])
    expected, _ = Tokenizer.from_pretrained(arm_folder).reconstruct([image])
    assert picture.size == (64, 64) and (codes == expected).mean() > 0.8  # fp16 moves few


@pytest.mark.slow
def test_the_card_tells_bounds_stages_hardware_and_whose_pictures_they_are(shipped):
    text = (shipped / "README.md").read_text()
    assert unbacked_figures(shipped) == [] and ModelCard(text).data.license == "cc-by-4.0"
    for told in (
        *notice().split("\n"),
        "It was a try.",
        "on a clock; all",
        f'repo = "{REPO}"',
        "(pictures/edits.png)",
    ):
        assert told in text, told
    for told in (
        "--config arm_emoji/grpo_text_to_image` | 3 | 7 | 40 |",
        "| 0.250 +- 0.500 | 0.750 +- 0.125 | +0.500 |",
    ):
        assert told in text, told
    assert text.count("a woman astronaut, dark skin tone, noto style") == 2 and "red circle" not in text
    export_emoji.write_emoji_card(shipped, REPO)
    assert (shipped / "README.md").read_text() == text


@pytest.mark.slow
def test_scores_are_kept_whole_and_those_with_bounds_are_on_the_card(shipped):
    scores = json.loads((shipped / export_emoji.SCORES).read_text())["scores"]
    assert len(scores["figures"]) > len(scores["card"]) and scores["card"].items() <= scores["figures"].items()
    assert export_emoji.MUST.keys() == export_emoji.AIM.keys() <= scores["card"].keys()
    beside = {f"editing_composed{end}" for end in ("_low", "_high", "_weakest", "_judge_target")}
    assert beside <= scores["card"].keys() <= FIGURE_NAMES.keys()
    assert "| weakest part | by a second judge | must | aim |" in (shipped / "README.md").read_text()
    for name in ("prompts", "edits", "answers", "world"):
        Image.open(shipped / "pictures" / f"{name}.png").load()


def test_a_row_s_weakest_part_comes_onto_the_card_with_it():
    row = {"a": 0.5, "a_low": 0.4, "a_weakest": 0.2, "a_weakest_low": 0.1, "a_majority": 0.3, "a_tone": 0.6}
    assert export_emoji.on_card({**row, "b": 0.1}).keys() == row.keys() - {"a_tone"}


def test_the_last_stage_ships_and_the_tokenizer_s_parts_do_not():
    both = ("grpo_text_to_image", "grpo_editing")
    for until, rl, last in (("pretrain", (), "pretrain"), ("sft", (), "sft"), ("sft", both, "grpo_editing")):
        shipping = {stage.run: stage.target for stage in export_emoji.stages_of(until, rl) if stage.target is not None}
        assert shipping == {"detokenizer": "detokenizer", last: "."}


def test_without_emoji_or_a_stage_nothing_is_written(emoji_folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="run trainers/detokenizer.py first"):
        export_emoji.export_emoji(tmp_path, tmp_path / "arm-emoji")
    monkeypatch.setenv("ARM_EMOJI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make emoji-data"):
        export_emoji.export_emoji(tmp_path, tmp_path / "arm-emoji")
    assert not list(tmp_path.iterdir())
