"""Packed documents do not see each other, rows are full, and every process and worker sees what one alone would."""

import copy
import io
import json
import os
import signal
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import islice
from multiprocessing import active_children

import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from flex_on_cpu import flex_on_cpu
from packed_rows import (
    PAPER,
    all_steps,
    bounds,
    drawing,
    mixed_documents,
    numbered,
    only,
    packed_mixture,
    plain,
    steps,
    world_mixture,
)
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from transformers_arm.data.conversations import ConversationCollator
from transformers_arm.data.mixture import Source
from transformers_arm.training.routed_loss import losses_of_sources

CODES = {"codes": List(Value("uint16")), "height": Value("uint8"), "width": Value("uint8")}


# --- isolation -------------------------------------------------------------------------------------------------------


@contextmanager
def attending(arm, attention):
    """The ARM with an attention, and its processor; flex attention as torch's reference computes it."""
    with flex_on_cpu() if attention == "flex_attention" else nullcontext():
        model = copy.deepcopy(arm[0])
        model.set_attn_implementation(attention)
        assert model.config._attn_implementation == attention
        yield model, arm[1]


def losses_and_gradients(model, batches):
    """The losses of batches, and the gradients of their sum."""
    model.zero_grad()
    losses = [model(**batch).loss for batch in batches]
    sum(losses).backward()
    return losses, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("attention, padding", [("sdpa", 0), ("sdpa", 150), ("eager", 1), ("flex_attention", 150)])
def test_a_packed_document_has_the_loss_and_the_gradients_that_it_has_alone(arm, attention, padding):
    """Whatever the attention, and however much padding fills the row."""
    with attending(arm, attention) as arm:
        assert_documents_are_as_alone(*arm, padding)


def assert_documents_are_as_alone(model, processor, padding):
    arm, conversations = (model, processor), mixed_documents()
    length = plain(arm, conversations)["input_ids"].shape[1]
    batch = plain(arm, conversations, length + padding)
    assert batch["input_ids"].shape[1] == length + padding and len(batch["pixel_values"]) == 3
    collator = ConversationCollator(processor.tokenizer, model.vq_model, model.config)
    parts = [only(batch, *each) for each in bounds(batch)[: len(conversations)]]
    counts = [int((part["labels"] != -100).sum()) for part in parts]
    losses, gradients = losses_and_gradients(model, [collator([conversation]) for conversation in conversations])
    assert len(gradients) > 20 and all(gradient.abs().max() > 0 for gradient in gradients)
    found = losses_and_gradients(model, parts)
    torch.testing.assert_close(found, (losses, gradients), atol=1e-5, rtol=1e-4)
    together = model(**batch, output_token_losses=True)
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together.loss, mean, atol=1e-5, rtol=0)
    told_apart, _ = losses_of_sources(together.token_losses, batch["sources"], batch["source_names"])
    told_apart = [told_apart.pop(f"of_document {number}") for number in range(len(losses))] + [*told_apart]
    torch.testing.assert_close(told_apart, losses, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_its_restarts_a_document_would_see_the_others(arm):
    """That the test above can fail."""
    model, batch = arm[0], plain(arm, mixed_documents())
    start, stop = bounds(batch)[1]
    joined = batch | {"position_ids": torch.arange(batch["input_ids"].shape[1])[None]}
    difference = model(**only(batch, start, stop)).loss - model(**only(joined, start, stop)).loss
    assert abs(difference) > 1e-4


@torch.no_grad()
def test_documents_of_a_mixture_are_isolated_as_well(arm):
    model, data = arm[0], world_mixture(arm)
    batch = data.consume(next(iter(data.loader(batch_size=2))))
    assert len(bounds(batch)) > 10 and "pixel_values" in batch
    filled = model.model.fill_image_tokens(batch["input_ids"], batch["pixel_values"])
    ids = {"input_ids": filled, "labels": filled.where(batch["labels"] != -100, -100)}
    for start, stop in bounds(batch):
        alone = model(**{name: value[:, start:stop] for name, value in ids.items()}).loss
        torch.testing.assert_close(model(**only(batch, start, stop)).loss, alone, atol=1e-5, rtol=0)


def test_filled_rows_are_of_one_length_and_hold_what_others_do(arm):
    filled, plain = world_mixture(arm, fill_rows=True), world_mixture(arm)
    assert filled.made_of() == plain.made_of()  # one goes on where the other stopped
    pad, padding = arm[1].tokenizer.pad_token_id, 0
    for given, batch in islice(zip(plain.loader(batch_size=1), filled.loader(batch_size=1), strict=True), 20):
        given, batch = plain.consume(given), filled.consume(batch)
        length = given["input_ids"].shape[1]
        for name in ("input_ids", "labels", "position_ids", "sources"):
            assert batch[name].shape == (1, 512) and torch.equal(batch[name][:, :length], given[name])
        rest = {name: batch[name][0, length:] for name in ("input_ids", "labels", "position_ids", "sources")}
        padding += 512 - length
        assert rest["position_ids"].tolist() == list(range(512 - length))
        assert {*rest["labels"].tolist()} <= {-100} and {*rest["sources"].tolist()} <= {-1}
        assert {*rest["input_ids"].tolist()} <= {pad}
    assert padding > 0 and filled.summary() == plain.summary()
    assert {batch["input_ids"].shape for batch in islice(filled.loader(batch_size=2), 3)} == {(1, 1024)}


def test_flash_attention_reads_the_documents_off_a_batch(arm):
    """What transformers' flash attention makes of position ids: bounds for its variable-length kernel."""
    data = world_mixture(arm)
    batch = data.consume(next(iter(data.loader(batch_size=2))))
    (lengths, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert "attention_mask" not in batch and batch["use_cache"] is False
    assert len(batch["input_ids"]) == 1  # it looks for documents in nothing else
    assert list(zip(lengths.tolist(), lengths.tolist()[1:], strict=False)) == bounds(batch)
    assert longest == max(stop - start for start, stop in bounds(batch))


def test_documents_are_what_the_conversation_collator_makes_with_placeholders_for_pixels(arm):
    model, conversations = arm[0], mixed_documents()
    collator = ConversationCollator(arm[1].tokenizer, model.vq_model, model.config)
    batch = plain(arm, conversations)
    placeholder = model.config.image_token_id
    assert (batch["input_ids"] == placeholder).sum() == 9 + 9 + 8  # three drawings; codes are tokens already
    filled = model.model.fill_image_tokens(batch["input_ids"], batch["pixel_values"])
    for conversation, (start, stop) in zip(conversations, bounds(batch), strict=True):
        expected = collator([conversation])
        assert torch.equal(filled[:, start:stop], expected["input_ids"])
        labels = torch.where(batch["labels"] == placeholder, filled, batch["labels"])[:, start:stop]
        assert torch.equal(labels, expected["labels"])


# --- packing ---------------------------------------------------------------------------------------------------------


def test_a_mixture_like_the_papers_fills_its_rows(arm):
    data = world_mixture(arm)
    for batch in islice(data.loader(), 160):
        assert data.consume(batch)["input_ids"].shape[1] <= 512
    summary = data.summary()
    assert summary["row_fill"] >= 0.95
    for task, weight in PAPER.items():
        assert summary[f"documents/{task}"] == pytest.approx(weight, abs=0.03)
    assert sum(summary[f"tokens/{task}"] for task in PAPER) == pytest.approx(1, abs=1e-3)
    assert summary["tokens/interleaved"] > 1.3 * summary["documents/interleaved"]  # three pictures each


def numbers(arm, row):
    """The numbers of the texts in a row, in order."""
    ids, positions = row["input_ids"].flatten(), row["position_ids"].flatten()
    pieces = ids.tensor_split((positions == 0).nonzero().flatten()[1:])
    return [int(arm[1].tokenizer.decode(piece).split("user\n")[1].split("?")[0].replace(" ", "")) for piece in pieces]


def test_documents_are_packed_once_and_whole(arm):
    data = packed_mixture(arm, {"texts": numbered(900)}, token_budget=1000, lookahead=16)
    rows = list(islice(data, 40))
    found = [number for row in rows for number in numbers(arm, row)]
    assert len(found) == len(set(found)) > 400
    assert all(len(row["input_ids"]) <= 1000 for row in rows)
    assert sum(len(row["input_ids"]) for row in rows) > 0.97 * 1000 * 40


def test_no_document_waits_for_longer_than_a_row(arm):
    """However long it is: short ones fill rows up, but the next row begins with the oldest that waits."""
    data = packed_mixture(arm, {"texts": numbered(600)}, token_budget=400, streams=1)
    drawn = [int(sample[0]["content"][0]["text"].split()[0]) for _, sample, _ in islice(data.mixture.draw(0), 400)]
    rows, packed = [numbers(arm, row) for row in islice(data, 40)], []
    for row, following in zip(rows, rows[1:], strict=False):
        packed += row
        assert following[0] == next(number for number in drawn if number not in packed)
    assert packed != drawn[: len(packed)]  # some did fill up


def test_a_document_longer_than_the_budget_is_named_counted_and_skipped(arm, caplog):
    long = Dataset.from_dict({"prompt": ["1 ?", "2 ?"], "answer": ["red", "red " * 300]})
    data = packed_mixture(arm, {"texts": numbered(50), "long": Source(long, weight=0.1, shuffle=False)}, streams=1)
    found = [number for row in islice(data.loader(), 30) for number in numbers(arm, data.consume(row))]
    assert "Source 'long', skipped: Row 1: " in caplog.text and "exceed the budget of 200" in caplog.text
    assert data.summary()["skipped/long"] > 1
    assert 0 < Counter(found)[2] < 30  # of the other source


# --- rows that cannot be used ----------------------------------------------------------------------------------------


def test_rows_of_pixels_and_codes_train_and_bad_ones_are_counted(arm):
    file = io.BytesIO()
    PIL.Image.fromarray(drawing(0, 64, 96)).save(file, "png")
    pixels = {"prompt": ["red", "blue"], "image": [{"bytes": file.getvalue()}, {"bytes": b"broken"}]}
    codes = {
        "prompt": ["red", "blue", "green"],
        "image": [
            {"codes": list(range(6)), "height": 2, "width": 3},
            {"codes": list(range(5)), "height": 2, "width": 3},  # one is missing
            {"codes": [5000], "height": 1, "width": 1},  # of another tokenizer
        ],
    }
    sources = {
        "pixels": Source(Dataset.from_dict(pixels, Features({"prompt": Value("string"), "image": Image()}))),
        "codes": Source(Dataset.from_dict(codes, Features({"prompt": Value("string"), "image": CODES}))),
    }
    data = packed_mixture(arm, sources, streams=1, max_skipped=1)
    batch = data.consume(list(islice(iter(data.loader()), 8))[-1])
    model, offset = arm[0], arm[0].config.visual_token_offset
    assert len(batch["pixel_values"]) == (batch["input_ids"] == model.config.image_token_id).sum() / 9
    assert {0, 1, 2, 3, 4, 5} <= set((batch["input_ids"] - offset).flatten().tolist())
    assert model(**batch).loss.isfinite()
    skipped = batch_skipped(data)
    assert set(skipped["pixels"]) == {"image: unreadable picture"}
    assert set(skipped["codes"]) == {"image: refused picture", "unusable"}


def batch_skipped(data):
    return data.states[0].packing.before.skipped


# --- processes, workers, going on ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def new_data(arm, tmp_path_factory):
    """Makes mixtures as a new process would: the embedded world, streamed files and rows had by number."""
    folder = tmp_path_factory.mktemp("codes")
    for number in range(3):
        rows = range(10 * number, 10 * number + 10)
        codes = [{"codes": [row, *range(row % 7)], "height": 1, "width": 1 + row % 7} for row in rows]
        prompts = [f"{row} ?" for row in rows]
        dataset = Dataset.from_dict({"prompt": prompts, "image": codes}, Features(prompt=Value("string"), image=CODES))
        dataset.to_parquet(folder / f"{number}.parquet")

    def make():
        files = {"path": "parquet", "data_files": str(folder / "*.parquet"), "streaming": True}
        sources = {
            "world": Source.from_recipe({"world": "shapes", "arguments": {"mixture": PAPER}}, seed=0),
            "streamed": Source.from_recipe({"dataset": files, "shuffle_buffer": 4}),
            "indexed": numbered(20),
        }
        return packed_mixture(arm, sources, token_budget=256, streams=8)

    return make


@pytest.fixture(scope="module")
def of_one(new_data):
    """Twenty steps of four rows, as one process without workers sees them."""
    return all_steps(new_data, 20, processes=1, num_workers=0, batch_size=4)[0]


@pytest.mark.parametrize(("processes", "num_workers", "batch_size"), [(2, 0, 2), (2, 2, 2), (1, 2, 4), (4, 2, 1)])
def test_processes_and_workers_see_in_each_step_what_one_process_sees(
    new_data, of_one, processes, num_workers, batch_size
):
    seen, _ = all_steps(new_data, 20, processes=processes, num_workers=num_workers, batch_size=batch_size)
    assert seen == of_one
    assert len(set(of_one)) == 20


@pytest.mark.parametrize("stopped", [1, 6])
@pytest.mark.parametrize("first", [(1, 0, 4), (2, 2, 2)])
def test_it_goes_on_with_exactly_the_rows_that_would_have_come(new_data, of_one, stopped, first):
    """Also with other numbers of processes and workers than before."""
    names = ("processes", "num_workers", "batch_size")
    _, state = all_steps(new_data, stopped, **dict(zip(names, first, strict=True)))
    for then in ((1, 0, 4), (2, 2, 2)):
        resumed, _ = all_steps(new_data, 12 - stopped, **dict(zip(names, then, strict=True)), state=state)
        assert resumed == of_one[stopped:12]


def test_prefetched_rows_that_were_not_consumed_come_again(new_data, of_one):
    data = new_data()
    batches = iter(data.loader(batch_size=4, num_workers=2, prefetch_factor=3))
    taken = [data.consume(next(batches)) for _ in range(3)]
    next(batches)  # fetched, and lost in a crash
    assert [batch["input_ids"].numpy().tobytes() for batch in taken] == [ids for ids, _ in of_one[:3]]
    assert steps(data, data.loader(batch_size=4), 1) == of_one[3:4]


def test_a_worker_reads_on_after_a_sigterm_to_all_and_ends_at_the_next(new_data, of_one):
    data, before = new_data(), active_children()
    batches = iter(data.loader(batch_size=4, num_workers=1, prefetch_factor=1))
    seen = steps(data, batches, 1)
    (worker,) = set(active_children()) - set(before)
    os.kill(worker.pid, signal.SIGTERM)
    assert seen + steps(data, batches, 5) == of_one[:6]
    with pytest.raises(RuntimeError, match="killed by signal: Terminated|exited unexpectedly"):
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(30)
        steps(data, batches, 3)
    assert worker.exitcode == -signal.SIGTERM


def test_counts_go_on_as_well(arm):
    sources = {"texts": numbered(50), "bad": Source(Dataset.from_dict({"prompt": ["1 ?", ""], "answer": ["a", "b"]}))}
    data, resumed = (packed_mixture(arm, sources, max_skipped=1) for _ in range(2))
    for batch in islice(data.loader(), 40):
        data.consume(batch)
        if data.rows_consumed == 18:
            resumed.load_state_dict(json.loads(json.dumps(data.state_dict())))
    for batch in islice(resumed.loader(), 22):
        resumed.consume(batch)
    assert resumed.summary() == data.summary() and data.summary()["skipped/bad"] > 3


def test_streams_that_cannot_be_shared_out_are_refused(arm):
    with pytest.raises(
        ValueError, match="8 streams cannot be .* 3 processes x 1 rows x 2 workers; state a multiple of 6"
    ):
        world_mixture(arm).loader(processes=3, num_workers=2)


def test_another_number_of_rows_a_step_is_refused(arm):
    data = world_mixture(arm)
    data.consume(next(iter(data.loader())))
    with pytest.raises(ValueError, match="1 rows were consumed, no whole number of steps of 1 processes x 2 rows"):
        data.loader(batch_size=2)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"token_budget": 513}, {"streams": 16}, {"lookahead": 2}])
def test_the_state_of_another_mixture_is_refused(arm, changed):
    state = world_mixture(arm).state_dict()
    with pytest.raises(ValueError, match=f"had other data: {next(iter(changed))} was .*, is .*. State the same"):
        world_mixture(arm, **changed).load_state_dict(state)
    world_mixture(arm).load_state_dict(state)


@pytest.mark.parametrize("name", ["token_budget", "lookahead"])
def test_sizes_below_one_are_refused(arm, name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be 1 or more"):
        world_mixture(arm, **{name: 0})
