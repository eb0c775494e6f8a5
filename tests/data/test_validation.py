"""Held-out rows of a mixture: each source apart, in batches that fit, shared out among processes, never trained on."""

from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset
from mixture_sources import drawn, streamed_texts, texts
from PIL import Image

from transformers_arm import ArmForCausalLM, ArmProcessor
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.fingerprints import differences
from transformers_arm.data.image_text import ImageTextMixture
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture
from transformers_arm.data.validation import sets_of_sources, validation_sets
from transformers_arm.image_processing_arm import ArmImageProcessor

NO_DROPOUT = {"text": 0.0, "image": 0.0, "both": 0.0}


@pytest.fixture(scope="module")
def packed(tiny_arm_backbones):
    """Makes packed rows of sources of which some rows are held out."""
    config = ArmForCausalLM.from_backbones(**tiny_arm_backbones).config
    processor = ArmProcessor.from_backbones(**tiny_arm_backbones)

    def make(held_out, **sources):
        mixture = Mixture(sources, seed=0, streams=2, held_out=held_out)
        return PackedMixture(mixture, processor, config, token_budget=90)

    return make


def pictures(sizes):
    """Rows of pictures of these sizes, each of one gray that says its number."""
    images = [Image.fromarray(np.full((*size, 3), number, np.uint8)) for number, size in enumerate(sizes)]
    return [{"prompt": f"number {number}", "image": image} for number, image in enumerate(images)]


def pairs(rows, held_out, pixel_budget=1024):
    mixture = Mixture({"own": Source(rows, condition_dropout=NO_DROPOUT)}, seed=0, streams=1, held_out=held_out)
    processor = ArmImageProcessor(keep_aspect_ratio=True, size={"height": 64, "width": 64})
    return ImageTextMixture(mixture, processor, ImageTextCollator(), pixel_budget=pixel_budget, buckets=0)


def grays(batch):
    return ((batch["pixel_values"][:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def test_documents_of_each_source_are_packed_apart_as_training_packs_them(packed, tmp_path):
    rows = packed(
        7, words=Source(texts(30, 100)), drawn=Source(drawn(12)), streamed=Source(streamed_texts(tmp_path, [20]))
    )
    sets = validation_sets(rows)
    assert list(sets) == ["words", "drawn", "streamed"]
    for name, found in sets.items():
        batches = list(found.loader())
        assert sum(batch["weight"] for batch in batches) == 7
        ids = [document for batch in batches for document in batch["input_ids"][0].tolist()]
        expected = [document for sample in found.samples() for document in sample.input_ids]
        assert ids == expected and all(batch["input_ids"].shape[1] <= 90 for batch in batches)
        assert all(int((batch["position_ids"] == 0).sum()) == batch["weight"] for batch in batches)
        assert ("pixel_values" in batches[0]) == (name == "drawn") and "states" not in batches[0]
    trained = {tuple(sample.input_ids) for _, sample in drawn_by(rows, 60)}
    held = {tuple(sample.input_ids) for found in sets.values() for sample in found.samples()}
    assert not trained & held and len(held) >= 14


def test_a_held_out_document_longer_than_a_row_comes_in_parts(packed):
    long = {"text": " ".join(f"word {number}" for number in range(60))}
    rows = packed(2, pages=Source(Dataset.from_list([{"text": "short"}] * 3 + [long])))
    (found,) = validation_sets(rows).values()
    batches = list(found.loader())
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert max(lengths) <= 90 and sum(lengths) > 180 and sum(batch["weight"] for batch in batches) >= 4


def test_pictures_that_cannot_be_read_any_more_are_left_out_and_stop_nothing(tmp_path, caplog):
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(file)
    rows = [{"image": str(file), "prompt": "a"} for file in files]
    (found,) = validation_sets(pairs(Dataset.from_list(rows), held_out=5)).values()
    whole = [(grays(batch), batch["weight"]) for batch in found.loader()]
    assert whole == [([1], 1), ([2], 1), ([3], 1), ([4], 1), ([5], 1)]
    files[3].unlink()
    assert [(grays(batch), batch["weight"]) for batch in found.loader()] == [*whole[:2], ([1], 0), *whole[3:]]
    assert "left out this time: Row 3" in caplog.text
    for file in (files[1], files[2], files[4], files[5]):
        file.unlink()
    with pytest.raises(ValueError, match="none of its rows can be read any more"):
        found[0]


def test_a_world_that_validates_draws_others_than_training_sees(packed):
    world = {"world": "shapes", "arguments": {"mixture": {"text": 1.0}}}
    rows = packed(0, drawn=Source.from_recipe(world, seed=0))
    (found,) = sets_of_sources(rows, {"drawn": world}, 8).values()
    trained, held = (
        [sample.input_ids for sample in each] for each in ([one for _, one in drawn_by(rows, 8)], found.samples())
    )
    assert len(held) > 4 and sum(sample in trained for sample in held) < 3


def drawn_by(rows, count):
    """The first samples that training draws."""
    encoder = rows.encoder()
    return [
        (name, sample)
        for stream in range(2)
        for name, sample, _ in islice(rows.mixture.draw(stream, encode=encoder, prepare=encoder.prepare), count)
    ]


def test_pictures_are_together_with_others_of_their_size():
    sizes = [(16, 16)] * 2 + [(16, 16), (32, 16), (16, 16), (32, 32), (16, 16), (32, 16), (16, 16), (16, 16)]
    (found,) = validation_sets(pairs(pictures(sizes), held_out=8)).values()
    batches = list(found.loader())
    assert [grays(batch) for batch in batches] == [[2, 4, 6, 8], [3, 7], [5], [9]]
    assert [batch["weight"] for batch in batches] == [4, 2, 1, 1]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_batches_and_stay_in_step(processes):
    (found,) = validation_sets(pairs(pictures([(32, 32)] * 6), held_out=5)).values()
    shares = [list(found.loader(process_index=rank, processes=processes)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    weighed = [number for share in shares for batch in share if batch["weight"] for number in grays(batch)]
    assert sorted(weighed) == [1, 2, 3, 4, 5]


def test_workers_read_the_same_and_no_randomness_is_used():
    (found,) = validation_sets(pairs(pictures([(32, 32)] * 6), held_out=5)).values()
    state = torch.get_rng_state()
    alone, helped = (list(found.loader(num_workers=workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [grays(batch) for batch in alone] == [grays(batch) for batch in helped]


def test_rows_that_cannot_be_used_are_named_and_a_set_of_none_is_refused(packed, caplog):
    good = {"prompt": "a", "answer": "b"}
    rows = packed(3, own=Source(Dataset.from_list([good] * 4 + [{"prompt": " ", "answer": "b"}, good])))
    (found,) = validation_sets(rows).values()
    assert sum(batch["weight"] for batch in found.loader()) == 2
    assert "Validation of source 'own', skipped: Row 4, column 'prompt'" in caplog.text
    rows = packed(2, own=Source(Dataset.from_list([good] * 4 + [{"prompt": " ", "answer": "b"}] * 2)))
    with pytest.raises(ValueError, match="Validation of source 'own': none of its 2 rows can be used.*Row 4, column"):
        validation_sets(rows)


def test_how_many_rows_are_held_out_belongs_to_what_a_checkpoint_s_data_were(packed):
    made_of = [packed(held_out, words=Source(texts(30))).made_of() for held_out in (0, 3, 4)]
    assert "held_out" not in made_of[0]  # as it was before there was such
    for theirs, ours, said in ((0, 1, "held_out was None, is 3"), (1, 2, "held_out was 3, is 4")):
        assert differences(made_of[theirs], made_of[ours]) == [said]


def test_other_datasets_may_be_the_held_out_rows(packed, tmp_path):
    rows = packed(0, words=Source(texts(30)))
    texts(9, 100).to_parquet(tmp_path / "other.parquet")
    section = {"dataset": {"path": "parquet", "data_files": str(tmp_path / "other.parquet")}}
    (found,) = sets_of_sources(rows, {"other": section}, 4).values()
    assert sum(batch["weight"] for batch in found.loader()) == 4
    Dataset.from_dict({"caption": ["a", "b"]}).to_parquet(tmp_path / "columns.parquet")
    section["dataset"]["data_files"] = str(tmp_path / "columns.parquet")
    message = "Validation of source 'other': none of its 2 rows can be used.*it has caption, but neither"
    with pytest.raises(ValueError, match=message):
        sets_of_sources(rows, {"other": section}, 4)
