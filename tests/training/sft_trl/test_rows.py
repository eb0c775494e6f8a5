"""Rows become the ids and labels of our own collator; those that cannot be used are named."""

import errno
import json

import PIL.Image
import pytest
import torch
from datasets import Dataset, load_dataset, load_from_disk
from picture_rows import drawing, pictures_in_folder_and_archive, streamed_lines
from sft_rows import CONVERSATIONS, dataset_of, losses, rows
from tiny_arm import pixels, runs_of

from transformers_arm.data.columns import row_conversation
from transformers_arm.data.conversations import ConversationCollator
from transformers_arm.training.sft_trl import RowEncoder

# --- ids and labels --------------------------------------------------------------------------------------------------


def test_rows_become_the_ids_and_labels_of_the_conversation_collator(new_trainer, processor):
    trainer = new_trainer(dataset_of(rows(8)))
    model = trainer.model
    collator = ConversationCollator(processor.tokenizer, model.vq_model, model.config)
    for row, encoded in zip(rows(8), trainer.train_dataset, strict=True):
        expected = collator([CONVERSATIONS[row["task"]](row)])
        assert encoded == {name: expected[name][0].tolist() for name in ("input_ids", "labels")}
    assert trainer.train_dataset.column_names == ["input_ids", "labels"]


def test_ids_are_those_of_the_processor_s_chat_template(new_trainer, processor):
    trainer = new_trainer(dataset_of(rows()))
    for index, row in enumerate(rows()):
        inputs = processor.apply_chat_template(
            row_conversation(row, index), tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"]
        if "pixel_values" in inputs:
            ids = trainer.model.model.fill_image_tokens(ids, inputs["pixel_values"])
        assert trainer.train_dataset[index]["input_ids"] == ids[0].tolist()


def test_nothing_behind_the_quantizer_runs(new_model, processor):
    model = new_model()
    encoder, pictures = RowEncoder(model, processor), pixels(3, 48, 48)
    expected = model.vq_model.encode(pictures).codes + model.config.visual_token_offset
    behind = runs_of(model.vq_model.up_blocks)
    assert torch.equal(torch.stack(encoder.image_tokens(list(pictures))), expected)
    assert behind == []


def test_pictures_of_any_size_are_sized_by_the_image_processor(new_trainer, processor):
    wide = PIL.Image.new("RGB", (300, 100), "red")
    (encoded,) = new_trainer(Dataset.from_list([{"prompt": "red", "image": wide}])).train_dataset
    image_ids = [token for token in encoded["input_ids"] if token >= processor.visual_token_offset]
    assert len(image_ids) == 9


def test_codes_give_the_rows_that_their_pictures_give_and_a_row_of_another_codebook_is_named(new_trainer):
    made = rows(8)
    pixels = new_trainer(dataset_of(made))
    processor, vq_model = pixels.processing_class, pixels.model.vq_model
    for number in (0, 2, 3, 6):  # of each task with pictures; the rest stay pixels
        for column in {"image", "source_image"} & set(made[number]):
            pixel_values = processor.image_processor(made[number][column], return_tensors="pt").pixel_values
            (grid,) = vq_model.encode(pixel_values).codes
            made[number][column] = {"codes": grid.flatten().tolist(), "height": grid.shape[0], "width": grid.shape[1]}
    encoder = RowEncoder(pixels.model, processor)
    names = dict.fromkeys(name for row in made for name in row)
    batch = {name: [row.get(name) for row in made] for name in names}
    encoded = encoder(batch, list(range(8)))
    for name in ("input_ids", "labels"):
        assert encoded[name] == list(pixels.train_dataset[name])
    batch["image"][3] = {"codes": [3, 1024], "height": 1, "width": 2}
    with pytest.raises(ValueError, match=r"Row 3: Code 1024 is outside this model's codebook \(0..1023\)"):
        encoder(batch, list(range(8)))


def test_a_streamed_dataset_gives_the_same_rows(new_trainer):
    dataset = dataset_of(rows())
    stored, streamed = new_trainer(dataset), new_trainer(dataset.to_iterable_dataset())
    assert list(streamed.train_dataset) == list(stored.train_dataset)
    streamed.train()
    assert len(losses(streamed)) == 2


def test_pictures_are_encoded_once_for_all_trainings(new_trainer, new_model, tmp_path, monkeypatch):
    dataset_of(rows()).save_to_disk(tmp_path / "data")
    dataset = Dataset.load_from_disk(str(tmp_path / "data"))
    first = list(new_trainer(dataset).train_dataset)
    calls, encode = [], RowEncoder.__call__
    monkeypatch.setattr(RowEncoder, "__call__", lambda self, *batch: calls.append(1) or encode(self, *batch))
    assert list(new_trainer(dataset).train_dataset) == first and not calls
    other = new_model()
    next(other.vq_model.parameters()).data.add_(0.1)
    new_trainer(dataset, model=other)
    assert calls


def test_rows_that_are_already_encoded_stay_as_they_are(new_trainer):
    encoded = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
    assert list(new_trainer(Dataset.from_list([encoded])).train_dataset) == [encoded]


def test_a_row_that_cannot_be_used_is_named(new_trainer):
    made = rows()
    made[2]["source_image"] = None
    with pytest.raises(ValueError, match="Row 2, column 'source_image': an edit has no picture to start from"):
        new_trainer(dataset_of(made))


def test_training_rows_lose_conditions_as_asked_and_evaluation_rows_none(new_trainer):
    made = [row for row in rows(32) if row["task"] == "text_to_image"]
    dropout = {"condition_dropout": {"text": 1.0}}
    trainer = new_trainer(dataset_of(made), config=dropout, eval_dataset=dataset_of(made))
    tokenizer = trainer.processing_class.tokenizer
    prompt = tokenizer(made[0]["prompt"], add_special_tokens=False)["input_ids"]

    def asks(row):
        return any(row["input_ids"][start : start + len(prompt)] == prompt for start in range(len(row["input_ids"])))

    assert asks(trainer.eval_dataset[0]) and not asks(trainer.train_dataset[0])
    assert trainer.train_dataset[0]["labels"][-15:] == trainer.eval_dataset[0]["labels"][-15:]


def test_whatever_a_row_raises_while_it_is_encoded_names_it(new_trainer):
    """Streamed and stored; odd messages, half a character, and what only a look at the texts of parts can tell."""
    good = {"messages": json.dumps([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])}
    for messages, error in (
        ('[{"role": "user", "content": [7]}]', "Row 2, column 'messages': 7 is neither a text nor an image part"),
        ('[{"role": "assistant", "content": "\\ud83d"}]', "Row 2, column 'messages': '.ud83d', at 0 of 1, is half"),
    ):
        dataset = Dataset.from_list([good, good, {"messages": messages}])
        with pytest.raises(ValueError, match=error):
            new_trainer(dataset)
        with pytest.raises(ValueError, match=error):
            list(new_trainer(dataset.to_iterable_dataset(), config={"max_skipped": 0.0}).train_dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_that_cannot_be_used_costs_itself_alone(new_trainer, caplog, streaming):
    made = rows(40)
    whole = dataset_of(made)
    made[3]["prompt"] = " "
    broken = dataset_of(made)
    broken = broken.to_iterable_dataset() if streaming else broken
    found = list(new_trainer(broken).train_dataset)
    assert found == [row for number, row in enumerate(new_trainer(whole).train_dataset) if number != 3]
    assert "train dataset, skipped: Row 3, column 'prompt': ' ' is blank" in caplog.text


@pytest.mark.parametrize("broken", [0, 3])
def test_a_broken_line_of_a_stream_costs_its_row_alone(new_trainer, tmp_path, caplog, broken):
    made = [{"prompt": f"what is {number}?", "answer": "a number"} for number in range(40)]
    made[35]["note"] = "a column of no other row"
    stream = streamed_lines(tmp_path / "rows.jsonl", made, broken=[broken])
    whole = new_trainer(Dataset.from_list(made)).train_dataset
    trainer = new_trainer(stream, eval_dataset=stream)
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        assert list(dataset) == [row for number, row in enumerate(whole) if number != broken]
    for name in ("train", "eval"):
        assert f"{name} dataset, {tmp_path}/rows.jsonl, skipped: Row {broken}: the line" in caplog.text
    assert "is no JSON: Expecting ',' delimiter" in caplog.text
    trainer.train()
    assert len(losses(trainer)) == 2


def test_columns_that_only_later_lines_of_a_stream_have_are_no_obstacle(new_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers_arm.data.input_files.LOOKED_AT", 2)
    made = [{"prompt": f"what is {number}?", "answer": "a number"} for number in range(6)]
    made[4]["note"] = "a column that the first lines do not have"
    stream = streamed_lines(tmp_path / "rows.jsonl", made, broken=[3])
    found = list(new_trainer(stream).train_dataset)
    assert len(found) == 5 and all(set(row) == {"input_ids", "labels"} for row in found)


def test_too_many_broken_lines_of_a_stream_end_the_run_and_are_named(new_trainer, tmp_path):
    made = [{"prompt": f"what is {number}?", "answer": "a number"} for number in range(8)]
    stream = streamed_lines(tmp_path / "rows.jsonl", made, broken=[2, 5])
    named = r"2 of 100 rows cannot be used, more than max_skipped 0.01 .*\n.*rows.jsonl: Row 2: the line .*\n.*Row 5: "
    with pytest.raises(ValueError, match=named):
        list(new_trainer(stream, config={"max_skipped": 0.01}).train_dataset)


def test_the_share_of_rows_that_may_be_lost_is_the_caller_s(new_trainer):
    made = rows(8)
    made[2]["prompt"] = " "
    assert len(new_trainer(dataset_of(made), config={"max_skipped": 0.125}).train_dataset) == 7
    with pytest.raises(ValueError, match="1 of 8 rows cannot be used, more than max_skipped 0.05 allows"):
        new_trainer(dataset_of(made))
    with pytest.raises(ValueError, match=r"max_skipped 2 is a share of the rows and must be in 0..1"):
        new_trainer(dataset_of(made), config={"max_skipped": 2})


def test_how_many_rows_are_left_out_is_told_of_what_a_cache_keeps_too(new_trainer, tmp_path, caplog):
    made = rows(8)
    made[2]["prompt"] = made[5]["prompt"] = " "
    dataset_of(made).save_to_disk(tmp_path / "rows")
    for told in ("2 of 8 rows are left out (2 prompt: blank).", "2 of 8 rows are left out."):
        caplog.clear()
        dataset = new_trainer(load_from_disk(tmp_path / "rows"), config={"max_skipped": 0.5}).train_dataset
        assert len(dataset) == 6 and caplog.messages.count(f"train dataset: {told}") == 1
    caplog.clear()
    new_trainer(dataset_of(rows(8)))
    assert "left out" not in caplog.text


def test_what_is_wrong_with_the_machine_is_not_blamed_on_a_row(new_trainer, monkeypatch):
    trainer = new_trainer(dataset_of(rows(1)))
    encoder = RowEncoder(trainer.model, trainer.processing_class)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fill(*_):
        raise full

    monkeypatch.setattr(encoder.collator, "encode_text", fill)
    with pytest.raises(OSError) as caught:
        encoder({"prompt": ["x"], "answer": ["y"]}, [0])
    assert caught.value is full


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_in_an_archive_are_trained_on_as_those_in_a_folder(new_trainer, tmp_path, streaming):
    folder, archive = pictures_in_folder_and_archive(tmp_path)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    zipped = load_dataset("imagefolder", data_files=str(archive), streaming=streaming, **options)
    stored = load_dataset("imagefolder", data_dir=str(folder), **options)
    assert list(new_trainer(zipped).train_dataset) == list(new_trainer(stored).train_dataset)


def test_rows_of_files_name_local_pictures_only_where_the_caller_trusts_them(new_trainer, tmp_path):
    drawing(seed=0).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text(f"prompt,image\na cat,{tmp_path / 'a.png'}\n")
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    dataset = load_dataset("csv", data_files=str(tmp_path / "rows.csv"), **options)
    with pytest.raises(ValueError, match="Row 0, column 'image': .*a.png' is a path.*Pass local_files=True"):
        new_trainer(dataset)
    assert len(new_trainer(dataset, config={"local_files": True}).train_dataset) == 1


# --- length ----------------------------------------------------------------------------------------------------------


def test_truncation_never_breaks_a_picture(new_trainer):
    dataset = dataset_of(rows(1))
    whole = len(new_trainer(dataset).train_dataset[0]["input_ids"])
    # the row ends with <|vision_end|>, <|im_end|> and a newline
    assert len(new_trainer(dataset, config={"max_length": whole - 2}).train_dataset[0]["input_ids"]) == whole - 2
    for length in (whole - 3, whole - 6, 5):
        with pytest.raises(
            ValueError, match=f"Row 0: it has {whole} tokens; at max_length {length} a picture would be cut"
        ):
            new_trainer(dataset, config={"max_length": length})


def test_text_is_cut_as_in_trl_but_not_all_that_is_learnt(new_trainer):
    dataset = Dataset.from_list([{"prompt": "what is it?", "answer": "a red circle left of a blue square"}])
    whole = new_trainer(dataset).train_dataset[0]
    cut = new_trainer(dataset, config={"max_length": len(whole["labels"]) - 5}).train_dataset[0]
    assert cut["labels"] == whole["labels"][:-5]
    for packing in (False, True):
        with pytest.raises(ValueError, match="at max_length 5 all that it teaches would be cut off"):
            new_trainer(dataset, config={"max_length": 5, "packing": packing})


# --- plain documents -------------------------------------------------------------------------------------------------

PAGES = [{"text": "red " * count, "id": str(count)} for count in (3, 80, 9)]


@pytest.mark.parametrize("streaming", [False, True])
def test_plain_documents_are_rows_and_long_ones_several(new_trainer, processor, tmp_path, streaming, caplog):
    dataset = Dataset.from_list(PAGES)
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    whole, end = processor.tokenizer([page["text"] for page in PAGES]).input_ids, processor.tokenizer.eos_token_id
    encoded = list(new_trainer(dataset, config={"max_length": None}).train_dataset)
    for row, ids in zip(encoded, whole, strict=True):
        assert row["input_ids"] == [*ids, end]
        assert row["labels"] == [-100, *row["input_ids"][1:]]
    parts = list(new_trainer(dataset, config={"max_length": 30}).train_dataset)
    assert len(parts) > len(whole) and all(len(row["input_ids"]) <= 30 for row in parts)
    learnt = [label for row in parts for label in row["labels"][1:]]
    assert learnt == [label for row in encoded for label in row["labels"][1:]]
    assert "left out" not in caplog.text


def test_plain_documents_train_packed_and_beside_pictures(new_trainer):
    mixed = dataset_of([*rows(4), *({"task": "text", "text": page["text"]} for page in PAGES)])
    trainer = new_trainer(mixed, config={"max_length": 60, "packing": True})
    assert all(len(row["input_ids"]) <= 60 for row in trainer.train_dataset)
    trainer.train()
    assert len(losses(trainer)) == 2 and all(loss < 20 for loss in losses(trainer))


def test_a_document_without_text_costs_its_row_and_another_column_is_refused(new_trainer, caplog):
    encoded = new_trainer(Dataset.from_list([*PAGES, {"text": " "}]), config={"max_skipped": 0.3, "max_length": 30})
    assert len(encoded.train_dataset) > 3
    assert "train dataset, skipped: Row 3, column 'text': ' ' is blank" in caplog.text
    assert "train dataset: 1 of 4 rows are left out (1 text: blank)" in caplog.text
    with pytest.raises(ValueError, match="dataset_text_field='content' makes no sense for ARM: .* rename the column"):
        new_trainer(Dataset.from_list([{"content": "red"}]), config={"dataset_text_field": "content"})
