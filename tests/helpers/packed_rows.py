"""Packed rows for tests: mixtures, and batches of conversations."""

import json
from itertools import islice
from random import Random

import torch
from datasets import Dataset

from transformers_arm.data.conversations import message
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.packing import PackedMixture
from transformers_arm.worlds.shapes import render_scene, sample_scene

PAPER = {"text": 0.05, "image_to_text": 0.10, "text_to_image": 0.70, "interleaved": 0.12, "editing": 0.03}


def world(task, **fields):
    return {"world": "shapes", "arguments": {"mixture": {task: 1.0}}, **fields}


def world_mixture(arm, **fields):
    """A mixture as the paper's, of the embedded world."""
    model, processor = arm
    sources = {task: world(task, weight=weight) for task, weight in PAPER.items()}
    recipe = {"seed": 0, "sources": sources, "token_budget": 512, "streams": 8, "lookahead": 16}
    return PackedMixture.from_recipe(processor, model.config, **recipe | fields)


def packed_mixture(arm, sources, *, token_budget=200, streams=4, lookahead=8, **fields):
    mixture = Mixture(sources, seed=0, streams=streams, **fields)
    return PackedMixture(mixture, arm[1], arm[0].config, token_budget=token_budget, lookahead=lookahead)


def steps(data, loader, count):
    """The ids and pictures of some steps, as bytes, so that they compare."""
    batches = [data.consume(batch) for batch in islice(loader, count)]
    return [
        (
            batch["input_ids"].numpy().tobytes(),
            b"".join(each.numpy().tobytes() for each in batch.get("pixel_values", [])),
        )
        for batch in batches
    ]


def plain(arm, conversations, budget=None):
    """The row of conversations, packed each of a source of its own; filled up to a budget if one is given."""
    names = [f"document {number}" for number in range(len(conversations))]
    mixture = Mixture.from_recipe({name: world("text") for name in names}, seed=0, streams=1)
    data = PackedMixture(mixture, arm[1], arm[0].config, token_budget=budget or 10_000, fill_rows=budget is not None)
    encode = data.encoder()
    row = data.row([(name, encode(each)) for name, each in zip(names, conversations, strict=True)])
    return data.consume(data.collator()([{**row, "stream": 0, "state": None}]))


def only(batch, start, stop):
    """A batch with the labels of some positions."""
    labels = torch.full_like(batch["labels"], -100)
    labels[:, start:stop] = batch["labels"][:, start:stop]
    return {**batch, "labels": labels}


def drawing(seed=0, height=48, width=48):
    return render_scene(sample_scene(Random(seed), split="train"), height, width)


def mixed_documents():
    """Conversations of text, pictures as pixels and pictures as codes, of several shapes."""
    codes = torch.arange(20).view(4, 5) * 7
    return [
        [message("user", "hello"), message("assistant", "a red circle")],
        [message("user", "a red circle"), message("assistant", drawing(1))],
        [
            message("user", "make it blue", drawing(2), codes),
            message("assistant", "here", codes + 1, drawing(3, 32, 64)),
        ],
        [message("user", codes + 2, "what color?"), message("assistant", "blue"), message("user", "sure?")]
        + [message("assistant", "yes")],
    ]


def bounds(batch):
    """(start, stop) of each document of a batch."""
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    return list(zip(starts, starts[1:] + [batch["input_ids"].shape[1]], strict=True))


def numbered(count, longest=40):
    """Texts that name their number, of several lengths."""
    answers = ["red " * Random(number).randrange(1, longest) for number in range(count)]
    return Source(Dataset.from_dict({"prompt": [f"{number} ?" for number in range(count)], "answer": answers}))


def all_steps(new_data, count, *, processes, num_workers, batch_size, state=None):
    """What all processes see, step by step, and the state after it, as a checkpoint would hold it."""
    seen, states = [], []
    for process_index in range(processes):
        data = new_data()
        if state is not None:
            data.load_state_dict(state)
        loader = data.loader(
            process_index=process_index, processes=processes, num_workers=num_workers, batch_size=batch_size
        )
        seen.append(steps(data, loader, count))
        states += data.state_dict()["states"].items()
    joined = [tuple(b"".join(parts) for parts in zip(*step, strict=True)) for step in zip(*seen, strict=True)]
    newest = dict(sorted(states, key=lambda each: each[1]["rows"]))
    return joined, json.loads(json.dumps({**data.state_dict(), "states": newest}))
