"""Benchmarks run, and what they print adds up."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_parts_of_a_grpo_step_make_the_whole(arm_folder, tmp_path, monkeypatch, capsys):
    small = ["--steps", "1", "--prompts", "2", "--samples", "2", "--output", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--model", arm_folder, *small])
    runpy.run_path(str(BENCHMARKS / "speed" / "grpo.py"), run_name="__main__")
    result = json.loads((tmp_path / "speed.json").read_text())
    assert sum(result["share"].values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert "| sampling |" in capsys.readouterr().out


def test_heads_are_measured_on_the_same_sequences(tmp_path, monkeypatch, capsys):
    command = ["heads.py", "--hidden", "28", "--lengths", "64", "--mixes", "mixed", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "speed.json")])
    runpy.run_path(str(BENCHMARKS / "speed" / "heads.py"), run_name="__main__")
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    for part in ("seconds", "gib"):
        assert row["flat"][part] > 0 and row["routed"][part] > 0
        assert row["ratios"][part] == pytest.approx(row["flat"][part] / row["routed"][part])
    assert "| mixed | 64 |" in capsys.readouterr().out


def test_layouts_train_on_the_same_documents(arm_folder, tmp_path, monkeypatch, capsys):
    command = ["layouts.py", "--model", arm_folder, "--budgets", "256", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "speed.json")])
    runpy.run_path(str(BENCHMARKS / "speed" / "layouts.py"), run_name="__main__")
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    for packed, padded in zip(rows[::2], rows[1::2], strict=True):
        assert (packed["layout"], padded["layout"]) == ("packed", "padded") and packed["ms"] > 0 < padded["ms"]
        assert packed["documents"] == padded["documents"]
        assert packed["loss"] == pytest.approx(padded["loss"], abs=1e-5)
    assert "| handed back | 256 |" in capsys.readouterr().out


def test_on_a_mixed_sequence_at_arm_7b_s_width_the_routed_head_was_faster_or_smaller_and_never_slower():
    rows = json.loads((BENCHMARKS / "results" / "speed_heads.json").read_text())["rows"]
    mixed = [row["ratios"] for row in rows if row["mix"] == "mixed"]
    assert mixed and all(ratios["seconds"] >= 1.5 or ratios["gib"] >= 2 for ratios in mixed)
    assert all(row["ratios"]["seconds"] >= 1 for row in rows)


@pytest.mark.parametrize("name", ["grpo_text_to_image", "grpo_editing"])
def test_results_of_reinforcement_learning_are_means_of_what_was_measured(name):
    result = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    after = [result["all"][folder] for folder in result["after"]]
    for score, row in result["table"].items():
        before = [each[score] for each in result["all"][result["before"]]]
        trained = [sum(each[score] for each in seeds) / len(seeds) for seeds in after]
        assert row["before"] == pytest.approx(sum(before) / len(before))
        assert row["gain"] == pytest.approx(sum(trained) / len(trained) - row["before"])


def test_stages_are_scored_on_the_same_items_and_sample_alike(arm_folder, tmp_path, monkeypatch, capsys):
    detokenizer = ["--detokenizer", f"{arm_folder}/detokenizer", "--items", "8"]
    command = ["stages.py", f"first={arm_folder}", f"last={arm_folder}", *detokenizer]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "stages.json")])
    runpy.run_path(str(BENCHMARKS / "quality" / "stages.py"), run_name="__main__")
    scores = json.loads((tmp_path / "stages.json").read_text())["scores"]
    assert scores["first"] == scores["last"]  # one model under two names
    assert {"understanding", "generation", "editing_exact", "hard_understanding", "text_edit"} <= set(scores["last"])
    printed = capsys.readouterr().out
    assert "| first | last |" in printed and "| editing exact | " in printed


def test_rows_of_simulated_pictures_are_full_with_buckets_and_what_waits_is_bounded(tmp_path, monkeypatch, capsys):
    command = ["row_fill.py", "--pictures", "5000", "--sigma", "0.5", "--output", str(tmp_path / "fill.json")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / "speed" / "row_fill.py"), run_name="__main__")
    rows = json.loads((tmp_path / "fill.json").read_text())["rows"]["0.5"]
    before, after = rows["own sizes"], rows["buckets"]
    assert after["row_fill"] >= 0.9 > 0.2 > before["row_fill"] and after["sizes"] == 11
    assert after["waiting_gb"] <= 6 * 64 * 512**2 * 3 / 1e9 + 0.001 < before["waiting_gb"]
    assert "| 0.5 | buckets |" in capsys.readouterr().out


def test_a_stage_without_a_model_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stages.py", f"sft={tmp_path}", "--detokenizer", "unused"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "quality" / "stages.py"), run_name="__main__")
    assert "is no NAME=FOLDER of a model" in capsys.readouterr().err


def test_a_tokenizer_is_measured_on_a_folder_of_pictures(tmp_path, monkeypatch, capsys, inception_file):
    pictures, shipped = tmp_path / "pictures", BENCHMARKS.parent / "checkpoints" / "arm-tiny"
    pictures.mkdir()
    for number, size in enumerate([(48, 48), (64, 32), (48, 48), (100, 70)]):
        Image.effect_noise(size, 60).convert("RGB").save(pictures / f"{number}.jpg")
    (pictures / "broken.jpg").write_text("no picture")
    captions = "".join(f"{number}.jpg,a picture of noise {number}\n" for number in range(4))
    (pictures / "metadata.csv").write_text(f"file_name,text\n{captions}broken.jpg,none\n")
    output = tmp_path / "results" / "scores.json"
    command = ["tokenizer.py", "--tokenizer", shipped, "--detokenizer", shipped / "detokenizer", "--dataset", pictures]
    command += ["--siglip", shipped / "backbones" / "siglip", "--inception", inception_file, "--output", output]
    command += ["--size", 64, 64, "--keep-aspect-ratio", "--shown", 3, "--candidates", 4]
    monkeypatch.setattr(sys, "argv", [str(each) for each in command])
    runpy.run_path(str(BENCHMARKS / "quality" / "tokenizer.py"), run_name="__main__")
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert {"command", "date", "hardware", "seed", "options"} < set(result) and result["items"] == 4
    scores = result["scores"]
    assert scores["skipped"] == 1 and "broken.jpg" in scores["skipped_examples"][0]["problem"]
    assert scores["tokens_per_picture"] == (9 + 8 + 9 + 15) / 4  # 100x70 px become 80x48
    assert 0 < scores["psnr"] < 40 and scores["rfid"] > 0 and scores["zero_shot_candidates"] == 4
    assert "| rFID of 4 pictures" in printed and "| PSNR, dB |" in printed and "broken.jpg" in printed
    with Image.open(output.with_suffix(".png")) as sheet:
        assert sheet.width > 3 * 48 and sheet.height > 2 * 48


def test_masks_with_hard_edges_keep_every_byte_outside(arm_folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "masks.json"
    command = ["masked_editing.py", "--checkpoint", arm_folder, "--items", "6", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / "quality" / "masked_editing.py"), run_name="__main__")
    ran, shipped = (json.loads(file.read_text()) for file in (output, BENCHMARKS / "results" / "masked_editing.json"))
    assert ran["items"] == 6 and list(ran["scores"]) == list(shipped["scores"])
    assert "| 6 held-out edits | no mask | mask |" in capsys.readouterr().out
    for scores in (ran["scores"], shipped["scores"]):
        assert scores["mask, hard edge"]["pictures_kept_outside"] == 1
        assert scores["no mask"]["bytes_kept_outside"] < scores["mask"]["bytes_kept_outside"] < 1
        assert scores["no mask"]["pictures_kept_outside"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "nowhere"], "nowhere"),
        (["--world", "--rename", "jpg=picture"], "--rename jpg=picture must say their name and one of image, caption"),
        (["--world", "--items", "0"], "count 0 must be at least 1"),
        (["--world", "--size", "50", "48"], "multiples of 16"),
    ],
)
def test_measuring_a_tokenizer_names_what_is_wrong(options, message, monkeypatch):
    shipped = str(BENCHMARKS.parent / "checkpoints" / "arm-tiny")
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", "--tokenizer", shipped, *options])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(BENCHMARKS / "quality" / "tokenizer.py"), run_name="__main__")


def test_in_the_ablation_the_sigmoid_and_the_feature_loss_bring_semantics_in_the_paper_s_order():
    result = json.loads((BENCHMARKS / "results" / "ablation.json").read_text())
    assert all(len({row["seed"] for row in rows}) == 3 for rows in result["scores"].values())
    means = {losses: sum(row["zero_shot"] for row in rows) / 3 for losses, rows in result["scores"].items()}
    paper = {losses: figures[0] for losses, figures in result["paper"].items()}
    assert sorted(means, key=means.get) == sorted(paper, key=paper.get)
    told = (BENCHMARKS.parent / "docs" / "results.md").read_text()
    for losses, mean in means.items():
        assert f"| {losses} | {mean:.3f} +- " in told


def test_where_pixels_and_captions_weigh_little_the_feature_loss_lifts_all_four():
    result = json.loads((BENCHMARKS / "results" / "ablation_weak_pixels_sigmoid.json").read_text())
    sigmoid, all_four = (result["scores"][losses] for losses in ("+ sigmoid", "all four"))
    for score in ("zero_shot", "psnr"):
        assert min(row[score] for row in all_four) > max(row[score] for row in sigmoid)


@pytest.mark.slow
def test_the_ablation_trains_with_each_set_of_losses_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    short = ["training.max_steps=2", "training.per_device_train_batch_size=4", "evaluation.every=1000"]
    command = ["ablation.py", "--seeds", "1", "--items", "8", "--runs", str(tmp_path / "runs")]
    command += ["--output", str(tmp_path / "ablation.json"), *short]
    found = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(BENCHMARKS / "quality" / "ablation.py"), run_name="__main__")
        weights = (tmp_path / "runs").glob("*/vq_model/model.safetensors")
        written = {file: file.stat().st_mtime_ns for file in weights}
        scores = json.loads((tmp_path / "ablation.json").read_text())["scores"]
        assert len(written) == 4 and [len(rows) for rows in scores.values()] == [1] * 4
        assert "| all four |" in capsys.readouterr().out
        found.append((written, scores))
    assert found[0] == found[1]


def test_the_ablation_takes_no_run_for_one_with_other_fields(tmp_path, monkeypatch):
    (tmp_path / "all_four-1").mkdir()
    (tmp_path / "all_four-1" / "fields.json").write_text('["training.seed=1", "training.max_steps=2"]')
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--seeds", "1", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match="all_four-1 holds a run with .*max_steps=2; name another folder"):
        runpy.run_path(str(BENCHMARKS / "quality" / "ablation.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "change", "figure"),
    [("tokenizer", "12 bits", "large_read_back"), ("binding", "one object, then two, then three", "color_three")],
)
def test_changes_are_trained_and_scored(study, change, figure, tmp_path, monkeypatch, capsys):
    short = ["training.max_steps=2", "training.warmup_steps=0", "training.per_device_train_batch_size=4"]
    command = ["changes.py", study, "as it is", change, "--items", "12", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "changes.json"), "--all", *short])
    runpy.run_path(str(BENCHMARKS / "quality" / "changes.py"), run_name="__main__")
    result = json.loads((tmp_path / "changes.json").read_text())
    assert list(result["scores"]) == list(result["changes"]) == ["as it is", change]
    assert all(0 <= rows[0][figure] <= 1 for rows in result["scores"].values())
    assert f"| {change} |" in capsys.readouterr().out


def test_a_change_that_there_is_not_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["changes.py", "binding", "more of it"])
    with pytest.raises(SystemExit, match="no change more of it; take as it is, eight questions"):
        runpy.run_path(str(BENCHMARKS / "quality" / "changes.py"), run_name="__main__")


def test_stories_and_previews_are_measured(arm_folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "interleaved.json"
    command = ["interleaved.py", "--checkpoint", arm_folder, "--items", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / "quality" / "interleaved.py"), run_name="__main__")
    ran, shipped = (json.loads(file.read_text()) for file in (output, BENCHMARKS / "results" / "interleaved.json"))
    assert ran.keys() == shipped.keys() and ran["previews"].keys() == shipped["previews"].keys() == set("123")
    for scores in shipped["scores"].values():
        assert scores["form"] == 1 and scores["first_picture"] > 0.9 > scores["edits"]
    assert "| first picture |" in capsys.readouterr().out
