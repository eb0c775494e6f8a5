"""A document a row, padded: the same documents, losses and gradients as packed."""

from itertools import islice

import pytest
import torch
from datasets import Dataset
from packed_rows import bounds, world, world_mixture

from transformers_arm.data.conversations import document
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture

ALIKE = {task: world(task) for task in ("image_to_text", "text_to_image")}  # in length


@pytest.mark.parametrize("fill_rows", [False, True])
def test_padded_batches_hold_the_documents_of_packed_ones(arm, fill_rows):
    packed = world_mixture(arm, sources=ALIKE)
    padded = world_mixture(arm, sources=ALIKE, padded=True, fill_rows=fill_rows)
    assert packed.made_of() == padded.made_of()  # one goes on where the other stopped
    for one, other in islice(zip(packed.loader(batch_size=2), padded.loader(batch_size=2), strict=True), 4):
        one, other = packed.consume(one), padded.consume(other)
        assert "position_ids" not in other and len(bounds(one)) == len(other["input_ids"])
        for number, (start, stop) in enumerate(bounds(one)):
            assert other["attention_mask"][number].tolist() == [1] * (stop - start) + [0] * (
                other["input_ids"].shape[1] - stop + start
            )
            for name, nothing in (("input_ids", None), ("labels", -100), ("sources", -1)):
                assert torch.equal(other[name][number, : stop - start], one[name][0, start:stop])
                assert nothing is None or (other[name][number, stop - start :] == nothing).all()
        assert all(map(torch.equal, one.get("pixel_values", []), other.get("pixel_values", [])))
        assert one["source_names"] == other["source_names"]
    assert packed.summary() == padded.summary()


def test_padded_batches_have_the_loss_and_the_gradients_of_packed_ones(arm):
    model, found = arm[0], []
    for padded in (False, True):
        data = world_mixture(arm, sources=ALIKE, padded=padded)
        batch = data.consume(next(iter(data.loader(batch_size=2))))
        assert ("attention_mask" in batch) == padded
        del batch["sources"], batch["source_names"]
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.detach(), [each.grad.clone() for each in model.parameters() if each.grad is not None]))
    model.zero_grad()
    (loss, gradients), (other, others) = found
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=0)
    assert gradients and len(gradients) == len(others)
    for one, two in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-3)


def test_batches_that_would_be_mostly_padding_stay_packed(arm):
    texts = {"long": ["red " * 200], "short": ["red"]}
    sources = {name: Source(Dataset.from_dict({"text": text})) for name, text in texts.items()}
    data = PackedMixture(Mixture(sources, seed=0, streams=1), arm[1], arm[0].config, token_budget=1000, padded=True)
    encode, seen = data.encoder(), {}
    for names in (("long", *["short"] * 8), ("short",) * 9, ("long", "long")):
        row = data.row([(name, encode(document(texts[name][0]))) for name in names])
        seen[names] = data.collator()([{**row, "stream": 0, "state": None}])
    mostly, short, long = seen.values()
    assert len(mostly["input_ids"]) == 1 and "attention_mask" not in mostly and len(bounds(mostly)) == 9
    assert len(short["input_ids"]) == 9 and len(long["input_ids"]) == 2 and "position_ids" not in long
