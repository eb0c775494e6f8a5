"""Captioned pictures in rows of one size: nothing is lost, nothing is mixed up, and training goes on to the row."""

import json
import math
from collections import Counter
from itertools import count, islice
from random import Random

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoTokenizer

from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.conversations import NO_DROPOUT
from transformers_arm.data.image_text import Captioned, ImageTextMixture, of_one_size
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.image_processing_arm import ArmImageProcessor

SIZES = [(16, 16), (32, 16), (16, 32), (32, 32)]


def picture(number, size):
    """A picture of one gray, which says its number."""
    return Image.fromarray(np.full((*size, 3), number, np.uint8))


def rows(length, sizes=SIZES):
    return [{"prompt": f"number {n}", "image": picture(n, sizes[n % len(sizes)])} for n in range(length)]


def mixture_of(given, *, streams=2, max_skipped=0.5, size=64, **changed):
    """Pictures at their own sizes, up to 64x64, in rows of 1024 px; others of `changed` are a source's."""
    limits = {"pixel_budget": 1024, "lookahead": 64, "buckets": 0, "waiting_rows": 6}
    limits = {name: changed.pop(name, value) for name, value in limits.items()}
    source = Source(given, condition_dropout=NO_DROPOUT, **changed)
    mixture = Mixture({"numbers": source}, seed=3, streams=streams, max_skipped=max_skipped)
    processor = ArmImageProcessor(keep_aspect_ratio=True, size={"height": size, "width": size})
    return ImageTextMixture(mixture, processor, ImageTextCollator(), **limits)


def numbers(batch):
    """The pictures of a batch, by the gray they are of."""
    return ((batch["pixel_values"][:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def test_a_batch_is_of_one_size_and_holds_as_many_as_the_budget_has_room_for():
    data, found = mixture_of(rows(40), shuffle=False), []
    for batch in islice(data.loader(), 30):
        pictures, _, height, width = batch["pixel_values"].shape
        assert pictures == 1024 // (height * width)
        assert all((height, width) == SIZES[number % 4] for number in numbers(batch))
        found += numbers(data.consume(batch))
    drawn = [found.count(number) for number in range(40)]
    assert min(drawn) >= 1  # streams of two take turns, and each has whole epochs


def test_every_picture_is_in_one_batch_in_the_order_of_its_size():
    draws = [("numbers", (number, SIZES[number % 3]), {"at": number + 1}) for number in range(60)]

    class Sample:
        def __init__(self, number, size):
            self.number, self.pixels = number, torch.zeros(3, *size)

    def draw(state):
        for name, sample, after in draws[state["at"] if state else 0 :]:
            yield name, Sample(*sample), after

    found = []
    for row, _ in islice(of_one_size(draw, 1024, 100, 6), 20):
        assert len({sample.pixels.shape for _, sample in row}) == 1
        found += [sample.number for _, sample in row]
    assert len(found) == len(set(found))
    for size in range(3):
        alike = [number for number in found if number % 3 == size]
        assert alike == list(range(size, 60, 3))[: len(alike)]


def test_what_was_drawn_is_told_while_the_first_picture_waits():
    given = rows(9, sizes=[(16, 16)])
    given[0] = {"prompt": "number 0", "image": picture(0, (32, 16))}
    data = mixture_of(given, streams=1, shuffle=False)
    assert numbers(data.consume(next(iter(data.loader())))) == [1, 2, 3, 4]
    logs = data.summary()
    assert (logs["documents/numbers"], logs["epoch/numbers"]) == (1.0, 0)


def test_a_rare_size_leaves_when_it_has_waited_long_enough():
    given = rows(40, sizes=[(16, 16)])
    given[4] = {"prompt": "number 4", "image": picture(4, (32, 16))}
    data = mixture_of(given, lookahead=10, streams=1, shuffle=False)
    batches = [data.consume(batch) for batch in islice(data.loader(), 6)]
    alone = [batch for batch in batches if batch["pixel_values"].shape[2:] == (32, 16)]
    assert [numbers(batch) for batch in alone] == [[4]]
    found = [number for batch in batches for number in numbers(batch)]
    assert sorted(found) == list(range(len(found)))  # and nobody else was lost or seen twice


@pytest.mark.parametrize(("workers", "buckets"), [(0, 0), (2, 0), (0, 11)])
def test_training_goes_on_with_the_rows_it_would_have_seen(workers, buckets):
    def data():
        given = Dataset.from_list([*rows(30), {"prompt": "no picture", "image": None}])
        if buckets:  # of which few may wait
            return bucketed(given, waiting_rows=1, streams=2, buckets=buckets)
        return mixture_of(given, pixel_budget=2048, lookahead=7)

    whole = data()
    expected = [numbers(whole.consume(batch)) for batch in islice(whole.loader(), 24)]
    begun = data()
    for batch in islice(begun.loader(num_workers=workers), 11):
        begun.consume(batch)
    resumed = data()
    resumed.load_state_dict(begun.state_dict())
    assert [numbers(resumed.consume(batch)) for batch in islice(resumed.loader(), 13)] == expected[11:]
    assert resumed.summary() == whole.summary() and whole.summary()["skipped/numbers"] > 0


# --- buckets ---------------------------------------------------------------------------------------------------------


def web_rows(length, seed=0):
    """Pictures as small as they may be in shapes of the web, log-normal; each is of one gray."""
    rng = Random(seed)
    shapes = [math.exp(rng.gauss(0, 0.5) / 2) for _ in range(length)]
    sizes = [(max(16, round(24 * shape)), max(16, round(24 / shape))) for shape in shapes]
    return [{"prompt": f"number {n}", "image": picture(n % 256, size)} for n, size in enumerate(sizes)]


def bucketed(given, **changed):
    """Rows of 8 pictures of 64 patches, in buckets."""
    limits = {"pixel_budget": 8 * 128**2, "buckets": 11, "lookahead": 512}
    return mixture_of(given, size=128, **{**limits, "streams": 1, **changed})


def test_pictures_of_any_shape_fill_rows_of_few_sizes():
    data, sizes = bucketed(web_rows(300)), set()
    for batch in islice(data.loader(), 40):
        sizes.add(tuple(batch["pixel_values"].shape[2:]))
        assert batch["pixel_values"].dtype == torch.float32 and len(numbers(batch)) == data.items(batch)
        data.consume(batch)
    assert 5 < len(sizes) <= 11 and sizes <= set(data.buckets.sizes)
    assert 0.9 < data.summary()["row_fill"] <= 1
    at_their_own = bucketed(web_rows(300), buckets=0)
    for batch in islice(at_their_own.loader(), 40):
        at_their_own.consume(batch)
    assert at_their_own.summary()["row_fill"] < 0.5


def test_row_fill_is_the_share_of_the_budget_that_has_pictures():
    data = mixture_of(rows(40), lookahead=3, streams=1)
    filled = [batch["pixel_values"][:, 0].numel() / 1024 for batch in map(data.consume, islice(data.loader(), 12))]
    assert min(filled) < max(filled)
    assert data.summary()["row_fill"] == pytest.approx(sum(filled) / 12, abs=1e-4)


def test_there_is_a_summary_while_the_very_first_picture_waits():
    data = mixture_of(rows(20, sizes=[(32, 16), *[(16, 16)] * 19]), streams=1, shuffle=False)
    data.consume(next(iter(data.loader())))
    assert data.states[0].packing.before is None
    assert data.summary()["epoch/numbers"] == 0 and data.summary()["documents/numbers"] == 1


def test_no_more_waits_than_was_stated_and_the_fullest_size_leaves():
    sizes = [(16, 16 * width) for width in (1, 1, 2, 3, 4, 5, 6, 7)]
    drawn, given = [], []

    def draw(state):
        for number in count():
            drawn.append(Captioned(torch.zeros(3, *sizes[number % 8], dtype=torch.uint8), str(number)))
            yield "numbers", drawn[-1], {"at": number + 1}

    budget, bound = 64 * 256, 2
    for row, _ in islice(of_one_size(draw, budget, 10**6, bound), 50):
        ids = {int(sample.caption) for _, sample in row}
        waiting = [sample for sample in drawn if int(sample.caption) not in {*given, *ids}]
        of_size = Counter()
        for sample in waiting:
            of_size[sample.pixels.shape] += sample.pixels[0].numel()
        left = sum(sample.pixels[0].numel() for _, sample in row)
        assert of_size.total() <= bound * budget
        assert left >= max(of_size.values())  # sizes that wait have less than what left
        given += ids
    assert sorted(given) == sorted(set(given))


@pytest.mark.parametrize(("size", "message"), [((20, 1000), "Crop it"), ((15, 40), "a patch has 16 a side")])
def test_what_fits_no_bucket_is_counted(size, message):
    odd = {"prompt": "odd", "image": picture(1, size)}
    data = bucketed([*web_rows(20), odd])
    for batch in islice(data.loader(), 8):
        data.consume(batch)
    assert data.summary()["skipped/numbers"] >= 1
    with pytest.raises(ValueError, match=f"Row 0, column 'image': the picture has {size[0]}x{size[1]} .*{message}"):
        next(iter(bucketed([odd], max_skipped=0).loader()))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_source_without_rows_is_refused(streaming, tmp_path):
    Dataset.from_list(rows(2)).select([]).to_parquet(tmp_path / "empty.parquet")
    dataset = {"path": "parquet", "data_files": str(tmp_path / "empty.parquet"), "streaming": streaming}
    with pytest.raises(ValueError, match="has no rows in its split 'train'|gave stream 0 of 1 no row"):
        source = Source.from_recipe({"dataset": {**dataset, "cache_dir": str(tmp_path / "cache")}})
        next(iter(bucketed(source.dataset).loader()))


def test_buckets_and_limits_that_make_no_sense_are_refused_and_none_are_changed_on_the_way():
    for limits, message in [
        ({"buckets": -1}, "buckets is -1"),
        ({"waiting_rows": 0}, "waiting_rows is 0"),
        ({"pixel_budget": 0}, "pixel_budget is 0"),
        ({"pixel_budget": 1024}, "pixel_budget is 1024, but pictures .* have up to 16384 pixels. Raise it"),
    ]:
        with pytest.raises(ValueError, match=message):
            bucketed(rows(8), **limits)
    begun = json.loads(json.dumps(bucketed(rows(8)).state_dict()))
    for changed, message in [
        ({"buckets": 3}, r"buckets were \d+, are 3"),
        ({"waiting_rows": 7}, "waiting_rows was 6"),
    ]:
        with pytest.raises(ValueError, match=f"had other data: {message}"):
            bucketed(rows(8), **changed).load_state_dict(begun)


# --- loaders ---------------------------------------------------------------------------------------------------------


def test_two_processes_share_out_the_batches_of_one():
    one = mixture_of(rows(40))
    expected = [numbers(batch) for batch in islice(one.loader(), 8)]
    shares = [islice(mixture_of(rows(40)).loader(process_index=each, processes=2), 4) for each in range(2)]
    assert [numbers(batch) for step in zip(*shares, strict=True) for batch in step] == expected


def test_captions_stay_with_their_pictures(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["captioner"])
    data = ImageTextMixture.from_recipe(
        ArmImageProcessor(do_resize=False),
        ImageTextCollator(caption_tokenizer=tokenizer),
        seed=1,
        sources={"world": {"world": "shapes", "arguments": {"mixture": {"text_to_image": 1.0}}}},
        pixel_budget=4 * 48 * 48,
        streams=1,
    )
    batch = data.consume(next(iter(data.loader())))
    assert batch["pixel_values"].shape == (4, 3, 48, 48) and len(batch["caption_ids"]) == 4
    world = data.mixture.sources["world"].dataset
    for number, ids in enumerate(batch["caption_ids"]):
        (caption,), (drawn,) = (turn["content"] for turn in world[number])
        assert tokenizer.decode(ids[ids >= 0]) == caption["text"] + tokenizer.eos_token
        assert torch.equal(((batch["pixel_values"][number] + 1) * 127.5).round().byte(), pixels(drawn["image"]))


def pixels(drawing):
    return torch.from_numpy(drawing).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "text", "prompt": "hello", "answer": "hello"}, "no picture with a caption"),
        ({"prompt": "codes", "image": {"codes": [1, 2], "height": 1, "width": 2}}, "holds codes"),
        ({"prompt": "large", "image": picture(1, (64, 64))}, "64x64 pixels .* exceeds the pixel_budget of 1024"),
        ({"prompt": " ", "image": picture(1, (16, 16))}, "is blank"),
    ],
    ids=["text", "codes", "large", "no caption"],
)
def test_rows_that_cannot_be_used_are_counted_and_too_many_of_them_refused(row, message, caplog):
    data = mixture_of([*rows(8), row], streams=1)
    for batch in islice(data.loader(), 8):
        data.consume(batch)
    assert data.summary()["skipped/numbers"] >= 1
    with pytest.raises(ValueError, match=message):
        next(iter(mixture_of([row], max_skipped=0, streams=1).loader()))


def test_batches_of_several_rows_are_refused():
    with pytest.raises(ValueError, match="has 2 rows of pictures.*per_device_train_batch_size: 1"):
        next(iter(mixture_of(rows(8)).loader(batch_size=2)))


def test_a_long_caption_is_cut_and_stays_open(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["captioner"])
    collator = ImageTextCollator(caption_tokenizer=tokenizer, max_caption_length=5)
    ids = collator.ids(["a red circle " * 9, "red"])["caption_ids"]
    assert ids.shape == (2, 5)
    assert tokenizer.eos_token_id not in ids[0] and tokenizer.eos_token_id in ids[1]
