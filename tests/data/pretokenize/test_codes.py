"""Datasets of pictures become datasets of codes that train alike, and a report says how."""

import base64
import io
import json
import random

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, List, Value
from pretokenize_datasets import NOWHERE, ROW, drawn_rows, load, png
from tiny_arm import runs_of

from transformers_arm import ArmForCausalLM, ArmImageProcessor, ArmProcessor
from transformers_arm.data.columns import check_dataset, row_conversation
from transformers_arm.data.input_files import find_sources
from transformers_arm.data.pretokenize import find_columns, summary
from transformers_arm.data.visual_tokenizer import load_tokenizer, weights_fingerprint
from transformers_arm.training.sft_trl import ArmSFTConfig, ArmSFTTrainer
from transformers_arm.worlds.shapes.draw import render_scene
from transformers_arm.worlds.shapes.edits import sample_editing_pair

# --- training --------------------------------------------------------------------------------------------------------


def test_training_from_codes_has_exactly_the_loss_of_training_from_pixels(codes, mixture, arm_folder, tmp_path):
    bad = {(1, 4), (1, 5), (1, 6)}
    rows = [row for file in (0, 1) for index, row in enumerate(drawn_rows(16, file)) if (file, index) not in bad]
    pixels, folder = Dataset.from_list(rows, features=ROW), codes[0]
    config = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "seed": 3}
    config |= {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8, "save_strategy": "no"}
    losses, examples = [], []
    for dataset in (pixels, load(folder)):
        arguments = ArmSFTConfig(str(tmp_path), **config)
        trainer = ArmSFTTrainer(ArmForCausalLM.from_pretrained(arm_folder), arguments, train_dataset=dataset)
        examples.append(list(trainer.train_dataset))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert examples[0] == examples[1] and len(examples[0]) == 29
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_the_rows_are_the_same_conversations(codes, arm_folder):
    vq_model, image_processor = load_tokenizer(arm_folder)
    written = load(codes[0])
    assert check_dataset(written) == {"text_to_image": 7, "editing": 7, "image_to_text": 7, "text": 8}
    for index, row in enumerate(drawn_rows(16)):
        expected = row_conversation(row, index, lambda picture: image_processor(picture, return_tensors="pt"))
        for turn, other in zip(expected, row_conversation(written[index], index), strict=True):
            assert turn["role"] == other["role"] and len(turn["content"]) == len(other["content"])
            for part, same in zip(turn["content"], other["content"], strict=True):
                if part["type"] == "image":
                    assert torch.equal(vq_model.encode(part["image"].pixel_values).codes[0], same["image"])
                else:
                    assert part == same


def test_conversations_keep_their_pictures_in_their_places(new_worker):
    worker = new_worker(["messages", "images"])
    first, second, third = ({"bytes": png(render_scene(sample_editing_pair(random.Random(n)).source))} for n in "abc")
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "redder"}, {"type": "image"}]}
    told = {"role": "assistant", "content": [{"type": "image", "image": third}, {"type": "text", "text": "done"}]}
    plain = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [{"messages": [asked, told], "images": [first, second]}, {"messages": plain, "images": None}]
    results, tally = worker.window(NOWHERE, rows, 0)
    worker.write(worker.job.file(0, 0), results, {})
    written = load(worker.job.output)
    assert check_dataset(written) == tally.tasks == {"messages": 2}
    assert set(written[0]) - {name for name in written[0] if written[0][name] is None} == {"messages"}
    alone = [
        worker.encode([worker.pixel_values(PIL.Image.open(io.BytesIO(each["bytes"])))])[0]
        for each in (first, second, third)
    ]
    said = [part for turn in row_conversation(written[0], 0) for part in turn["content"]]
    assert [part.get("text") for part in said] == [None, "redder", None, None, "done"]
    for part, expected in zip((said[0], said[2], said[3]), alone, strict=True):
        assert part["image"].flatten().tolist() == expected["codes"].tolist()
    assert row_conversation(written[1], 1)[1]["content"] == [{"type": "text", "text": "hello"}]


def test_nothing_behind_the_quantizer_runs(new_worker):
    worker = new_worker(["prompt", "image"])
    alike = [
        worker.pixel_values(PIL.Image.fromarray(render_scene(sample_editing_pair(random.Random(n)).source)))
        for n in range(4)
    ]
    expected = worker.vq_model.encode(torch.stack(alike)).codes
    behind, before = (runs_of(part) for part in (worker.vq_model.up_blocks, worker.vq_model.down_blocks))
    codes = [each["codes"].reshape(each["height"], each["width"]) for each in worker.encode(alike)]
    assert np.array_equal(codes, expected) and (behind, before) == ([], [3, 1])


def test_lists_that_are_json_text_become_lists_of_codes(new_worker):
    worker = new_worker(["source_images", "prompt", "image"])
    pictures = [png(render_scene(sample_editing_pair(random.Random(seed)).source)) for seed in range(3)]
    urls = ["data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures]
    row = {"prompt": "join", "source_images": json.dumps(urls[:2]), "image": urls[2]}
    (result,), tally = worker.window(NOWHERE, [row], 0)
    alone = [worker.encode([worker.pixel_values(PIL.Image.open(io.BytesIO(each)))])[0] for each in pictures]
    found = [*result["source_images"], result["image"]]
    assert [each["codes"].tolist() for each in found] == [each["codes"].tolist() for each in alone]
    assert tally.tasks == {"editing": 1}


def test_pictures_of_several_sizes_keep_their_order_and_grids(new_worker, arm_folder, tmp_path):
    vq_model, _ = load_tokenizer(f"{arm_folder}/vq_model")
    vq_model.save_pretrained(tmp_path / "vq")
    keeping = ArmImageProcessor(size={"height": 64, "width": 64}, keep_aspect_ratio=True)
    keeping.save_pretrained(tmp_path / "vq")
    worker = new_worker(["prompt", "image"], tokenizer=tmp_path / "vq")
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (32, 64), (48, 48), (200, 100), (32, 64), (48, 48), (48, 48)]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    results, _ = worker.window(NOWHERE, [{"prompt": "x", "image": picture} for picture in pictures], 0)
    for picture, result in zip(pictures, results, strict=True):
        (grid,) = vq_model.encode(keeping(picture, return_tensors="pt").pixel_values).codes
        assert (result["image"]["height"], result["image"]["width"]) == grid.shape
        assert result["image"]["codes"].tolist() == grid.flatten().tolist()
    assert {(result["image"]["height"], result["image"]["width"]) for result in results} == {(3, 3), (2, 4), (5, 2)}


def test_the_largest_code_survives(new_worker):
    worker = new_worker(["prompt", "image"])
    grid = {"codes": np.array([65535, 0, 32768, 65534, 1, 2], np.uint16), "height": 2, "width": 3}
    worker.write(worker.job.file(0, 0), [{"task": "text_to_image", "prompt": "x", "image": grid}], {})
    written = load(worker.job.output)
    assert written.features["image"]["codes"] == List(Value("uint16"))
    said = row_conversation(written[0], 0)[1]["content"][0]["image"]
    assert said.dtype == torch.int64 and said.tolist() == [[65535, 0, 32768], [65534, 1, 2]]


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_counts_what_was_skipped_and_names_it(codes):
    folder, report = codes
    assert json.loads((folder / "report.json").read_text()) == report
    assert (report["complete"], report["rows"], report["written"]) == (True, 32, 29)
    assert report["tasks"] == {"text_to_image": 7, "editing": 7, "image_to_text": 7, "text": 8}
    assert report["skipped"] == {"image: unreadable picture": 1, "source_image: missing": 1, "prompt: missing": 1}
    first, second, third = (f"{example['file']}: {example['problem']}" for example in report["examples"])
    assert first.startswith("1.parquet: Row 4, column 'image': 4-source.png: ") and "0x" not in first
    assert second.startswith("1.parquet: Row 5, column 'source_image': an edit has no picture to start from")
    assert third.startswith("1.parquet: Row 6, column 'prompt': it is missing")
    (ended,) = report["ended_early"]
    assert (ended["file"], ended["rows"]) == ("2.parquet", 0) and "Parquet magic bytes not found" in ended["problem"]
    said = summary(report)
    assert said.startswith("29 of 32 rows written (7 text_to_image, 7 editing, 7 image_to_text, 8 text), 3 skipped")
    assert "2.parquet ended early, after 0 rows" in said and "1 prompt: missing" in said


def test_the_report_says_which_tokenizer_made_the_codes(codes, arm_folder):
    made = codes[1]["tokenizer"]
    model = ArmForCausalLM.from_pretrained(arm_folder)
    assert made["weights"] == weights_fingerprint(model.vq_model)
    assert made["image_processor"] == json.loads(
        ArmProcessor.from_pretrained(arm_folder).image_processor.to_json_string()
    )
    assert (made["codebook_size"], made["dtype"]) == (1024, "float32")


def test_the_tokenizer_of_an_arm_is_that_of_its_own_folder(arm_folder):
    (model, processor), (other, same) = load_tokenizer(arm_folder), load_tokenizer(f"{arm_folder}/vq_model")
    assert weights_fingerprint(model) == weights_fingerprint(other) and not model.training and not other.training
    assert processor.to_json_string() == same.to_json_string()
    with torch.no_grad():
        other.down_projection.bias += 1e-3
    assert weights_fingerprint(model) != weights_fingerprint(other)


@pytest.mark.parametrize("column", ["text", "content"])
def test_plain_documents_are_written_as_they_are(new_worker, tmp_path, column):
    rows = [{column: f"page {number}", "id": str(number)} for number in range(5)] + [{column: "", "id": "5"}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source,) = find_sources(str(tmp_path / "pages.jsonl"), None, "train")
    rename = {} if column == "text" else {column: "text"}
    worker = new_worker(find_columns([source], rename), rename=rename)
    results, tally = worker.window(source, source.rows(), 0)
    assert tally.tasks == {"text": 5} and tally.skipped == {"text: blank": 1}
    (tmp_path / "codes").mkdir()
    worker.write(tmp_path / "codes" / "train-00000-00000.parquet", results, {})
    written = load(tmp_path / "codes")
    assert written["text"][:] == [f"page {number}" for number in range(5)] and set(written["task"]) == {"text"}
    assert check_dataset(written) == {"text": 5}  # though all columns are there
