"""What rows have of words alone, whatever their task: captions, instructions, questions with answers, documents."""

import json
from itertools import islice

import pytest
import torch
from datasets import Dataset
from picture_rows import ROWS, captioned_folder, drawing
from transformers import AutoTokenizer

from transformers_arm.data.columns import row_conversation
from transformers_arm.data.conversations import document, message
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.validation import validation_sets
from transformers_arm.data.words import WordMixture, sampled_words, words_of


@pytest.fixture(scope="module")
def tokenizer(tiny_backbones):
    return AutoTokenizer.from_pretrained(tiny_backbones["captioner"])


def of_folder(folder):
    return {"dataset": {"path": "imagefolder", "data_dir": folder}}


def mixture_of(tokenizer, sources, **settings):
    return WordMixture.from_recipe(tokenizer, seed=0, sources=sources, **{"streams": 2, **settings})


def learnt(tokenizer, batch):
    """The texts of a batch whole, and those parts that carry loss."""
    whole = [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    return whole, [tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ROWS["text_to_image"], document("a cat")),
        (ROWS["editing"], document("make it red")),
        (ROWS["image_to_text"], [message("user", "what is it?"), message("assistant", "a cat")]),
        (ROWS["text"], [message("user", "hello"), message("assistant", "hi")]),
        ({"text": "a page"}, document("a page")),
    ],
)
def test_words_of_every_task(row, expected):
    assert words_of(row_conversation(row, 0)) == expected


def test_a_conversation_of_pictures_alone_has_no_words():
    with pytest.raises(ValueError, match="it holds no words"):
        words_of([message("user", drawing()), message("assistant", drawing())])


def test_captions_of_a_folder_are_learnt_whole_and_never_dropped(tokenizer, tmp_path):
    captions = [f"picture {number}" for number in range(12)]
    rows = mixture_of(tokenizer, {"own": of_folder(captioned_folder(tmp_path / "own", captions))}, held_out=2)
    batches = [rows.consume(batch) for batch in islice(rows.loader(batch_size=2), 15)]
    whole = [text for batch in batches for text in learnt(tokenizer, batch)[0]]
    assert {text.removesuffix("<|endoftext|>") for text in whole} == set(captions[:10]) and len(whole) == 30
    assert all(
        sorted(whole[first : first + 10]) == sorted(f"{each}<|endoftext|>" for each in captions[:10])
        for first in (0, 10, 20)
    )
    first, second = learnt(tokenizer, batches[0])
    assert all(text.endswith(part) and len(part) >= len(text) - 1 for text, part in zip(first, second, strict=True))


def test_of_what_is_said_the_answer_is_learnt_and_what_looks_like_control_stays_text(tokenizer):
    rows = Dataset.from_list([{"prompt": "say <|im_end|>", "answer": "<|im_end|> it is"}])
    mixture = WordMixture(Mixture({"own": Source(rows)}, seed=0, streams=1), tokenizer)
    batch = next(iter(mixture.loader()))
    (whole,), (part,) = learnt(tokenizer, batch)
    assert part == "<|im_end|> it is<|im_end|>" and whole.startswith("<|im_start|>user\nsay <|im_end|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (batch["input_ids"] == end).sum() == 2  # of the template alone


def test_long_texts_are_learnt_in_parts(tokenizer, tmp_path):
    text = " ".join(f"word {number}" for number in range(40))
    (tmp_path / "a.json").write_text(json.dumps({"text": text}))
    sources = {"own": {"dataset": {"path": "json", "data_files": str(tmp_path / "a.json")}}}
    rows = mixture_of(tokenizer, sources, streams=1, max_tokens=16)
    ids = tokenizer(text).input_ids + [tokenizer.eos_token_id]
    batches = list(islice(rows.loader(), -(-(len(ids) - 1) // 15)))
    assert max(batch["input_ids"].shape[1] for batch in batches) == 16
    assert [label for batch in batches for label in batch["labels"][0].tolist() if label != -100] == ids[1:]
    with pytest.raises(ValueError, match="max_tokens is 1; it must be 2 or more"):
        mixture_of(tokenizer, sources, max_tokens=1)


def test_batches_count_by_what_is_learnt_of_them(tokenizer, tmp_path):
    captions = [f"picture {'very ' * number}long" for number in range(9)]
    rows = mixture_of(tokenizer, {"own": of_folder(captioned_folder(tmp_path / "own", captions))}, held_out=4)
    tokens = [len(tokenizer(caption).input_ids) for caption in captions]  # the first is not learnt, but the end is
    (held,) = validation_sets(rows).values()
    assert sum(batch["weight"] for batch in held) == sum(tokens[5:])
    batch = next(iter(rows.loader(batch_size=2)))
    assert rows.items(batch) == batch["attention_mask"].sum() - 2


def test_training_goes_on_behind_the_last_row(tokenizer, tmp_path):
    sources = {"own": of_folder(captioned_folder(tmp_path / "own", [f"picture {number}" for number in range(9)]))}
    rows = mixture_of(tokenizer, sources)
    expected = [batch["input_ids"] for batch in islice(rows.loader(), 12)]
    begun = mixture_of(tokenizer, sources)
    for batch in islice(begun.loader(), 5):
        begun.consume(batch)
    resumed = mixture_of(tokenizer, sources)
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert all(map(torch.equal, [batch["input_ids"] for batch in islice(resumed.loader(), 7)], expected[5:]))
    with pytest.raises(ValueError, match="max_tokens"):
        mixture_of(tokenizer, sources, max_tokens=12).load_state_dict(begun.state_dict())


def test_tokenizers_see_each_row_once_and_sources_by_their_weight(tmp_path):
    captions = [f"picture {number}" for number in range(6)]
    own = of_folder(captioned_folder(tmp_path / "own", captions))
    (tmp_path / "b.json").write_text("\n".join(json.dumps({"text": f"page {number}"}) for number in range(50)))
    pages = {"dataset": {"path": "json", "data_files": str(tmp_path / "b.json")}, "weight": 3.0}

    def sampled(count, **sources):
        return sorted(sampled_words(Mixture.from_recipe(sources, seed=0, streams=1, complete=True, held_out=1), count))

    assert sampled(1000, own=own) == captions[:5]  # without the one that is held out
    words = sampled(20, own=own, pages=pages)
    assert len(set(words)) == len(words) == 20 and sum(word.startswith("page") for word in words) == 15


def test_a_row_whose_picture_cannot_be_read_is_passed_over(tmp_path):
    folder = captioned_folder(tmp_path / "own", ["one", "two", "three"])
    (tmp_path / "own" / "01.png").write_bytes(b"no picture")
    mixture = Mixture.from_recipe({"own": of_folder(folder)}, seed=0, streams=1, complete=True)
    assert sorted(sampled_words(mixture, 9)) == ["one", "three"]
