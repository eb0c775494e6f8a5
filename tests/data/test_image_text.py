"""Captioned pictures in batches of one size: nothing is lost, nothing is mixed up, and training goes on to the row."""

from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoTokenizer

from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.image_text import ImageTextMixture, of_one_size
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.image_processing_arm import ArmImageProcessor

SIZES = [(16, 16), (32, 16), (16, 32), (32, 32)]


def picture(number, size):
    """A picture of one gray, which says its number."""
    return Image.fromarray(np.full((*size, 3), number, np.uint8))


def rows(count, sizes=SIZES):
    return [{"prompt": f"number {n}", "image": picture(n, sizes[n % len(sizes)])} for n in range(count)]


def mixture_of(given, *, pixel_budget=1024, lookahead=64, streams=2, max_skipped=0.5, **source):
    source = Source(given, condition_dropout={"text": 0.0, "image": 0.0, "both": 0.0}, **source)
    mixture = Mixture({"numbers": source}, seed=3, streams=streams, max_skipped=max_skipped)
    processor = ArmImageProcessor(keep_aspect_ratio=True, size={"height": 64, "width": 64})
    return ImageTextMixture(mixture, processor, ImageTextCollator(), pixel_budget=pixel_budget, lookahead=lookahead)


def numbers(batch):
    """The pictures of a batch, by the gray they are of."""
    return ((batch["pixel_values"][:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


def test_a_batch_is_of_one_size_and_holds_as_many_as_the_budget_has_room_for():
    data, found = mixture_of(rows(40), shuffle=False), []
    for batch in islice(data.loader(), 30):
        count, _, height, width = batch["pixel_values"].shape
        assert count == 1024 // (height * width)
        assert all((height, width) == SIZES[number % 4] for number in numbers(batch))
        found += numbers(data.consume(batch))
    drawn = [found.count(number) for number in range(40)]
    assert min(drawn) >= 1  # streams of two take turns, and each has whole epochs


def test_every_picture_is_in_one_batch_in_the_order_of_its_size():
    draws = [("numbers", (number, SIZES[number % 3]), {"at": number + 1}) for number in range(60)]

    class Sample:
        def __init__(self, number, size):
            self.number, self.pixel_values = number, torch.zeros(3, *size)

    def draw(state):
        for name, sample, after in draws[state["at"] if state else 0 :]:
            yield name, Sample(*sample), after

    found = []
    for row, _ in islice(of_one_size(draw, 1024, 100), 20):
        assert len({sample.pixel_values.shape for _, sample in row}) == 1
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


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_with_the_rows_it_would_have_seen(workers):
    def data():
        given = [*rows(30), {"prompt": "no picture", "image": None}]
        return mixture_of(Dataset.from_list(given), pixel_budget=2048, lookahead=7)

    whole = data()
    expected = [numbers(whole.consume(batch)) for batch in islice(whole.loader(), 24)]
    begun = data()
    for batch in islice(begun.loader(num_workers=workers), 11):
        begun.consume(batch)
    resumed = data()
    resumed.load_state_dict(begun.state_dict())
    assert [numbers(resumed.consume(batch)) for batch in islice(resumed.loader(), 13)] == expected[11:]
    assert resumed.summary() == whole.summary() and whole.summary()["skipped/numbers"] > 0


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


def test_batches_of_several_rows_and_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="has 2 rows of pictures.*per_device_train_batch_size: 1"):
        next(iter(mixture_of(rows(8)).loader(batch_size=2)))
    with pytest.raises(ValueError, match="pixel_budget is 0"):
        mixture_of(rows(8), pixel_budget=0)


def test_a_long_caption_is_cut_and_stays_open(tiny_backbones):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["captioner"])
    collator = ImageTextCollator(caption_tokenizer=tokenizer, max_caption_length=5)
    ids = collator.ids(["a red circle " * 9, "red"])["caption_ids"]
    assert ids.shape == (2, 5)
    assert tokenizer.eos_token_id not in ids[0] and tokenizer.eos_token_id in ids[1]
