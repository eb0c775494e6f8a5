"""Pictures that renderers learn from: streamed, drawn, and encoded once for as many epochs and runs as want them."""

import json
import re
import shutil

import datasets
import numpy as np
import pytest
import torch
from mixture_sources import DRAWN, drawn
from renderer_training import train, train_killed, weights
from safetensors.torch import load_file, save_file
from transformers.trainer_callback import TrainerState

from transformers_arm.training.latent_cache import CachedLatents, encode_once
from transformers_arm.training.renderer import LatentTraining
from transformers_arm.training.trainer import training_arguments


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Streamed pictures with captions, of which one in three is no picture."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    broken = datasets.Dataset.from_dict({"prompt": ["x"], "image": [{"bytes": b"no", "path": None}]}, features=DRAWN)
    datasets.concatenate_datasets([each for n in range(10) for each in (drawn(2, 2 * n), broken)]).to_parquet(file)
    source = {"dataset": {"path": "parquet", "data_files": str(file), "streaming": True}, "weight": 1.0}
    source["fill"] = {"task": "text_to_image"}
    return {"sources": {"pairs": source}, "pixel_budget": 2 * 48 * 48, "streams": 2, "max_skipped": 0.5}


@pytest.fixture
def streamed(recipe, sources):
    """Makes recipes on streamed pictures, in shapes near their own."""

    def make(output_dir, **sections):
        size = {"size": {"height": 48, "width": 48}, "keep_aspect_ratio": True}
        training = {"per_device_train_batch_size": 1} | sections.pop("training", {})
        return recipe(output_dir, data=sources, image_processor=size, training=training, **sections)

    return make


def history(folder):
    return TrainerState.load_from_json(folder / "checkpoint-4" / "trainer_state.json").log_history


def test_a_streamed_training_goes_on_with_the_pictures_it_would_have_seen(streamed, tmp_path, monkeypatch):
    sections = {"ema_decay": 0.5, "validation": {"rows": 2, "every": 2}}
    sections["evaluation"] = {"every": 4, "pictures": 2, "steps": 2}
    expected = weights(train(streamed(tmp_path / "whole", **sections)))
    logs = history(tmp_path / "whole")
    assert any("eval_pairs_loss" in log for log in logs) and any("eval_psnr" in log for log in logs)
    assert max(log.get("skipped/pairs", 0) for log in logs) >= 1
    train_killed(streamed(tmp_path / "killed", **sections), monkeypatch)
    resumed = weights(train(streamed(tmp_path / "killed", **sections)))
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize("kind", ["drawn", "streamed"])
def test_what_is_cached_is_encoded_once(kind, recipe, streamed, tmp_path, monkeypatch):
    """A second run takes it, and one of other parts is told what differs."""
    cache = {"folder": str(tmp_path / "cache"), "pictures": 3}
    make = recipe if kind == "drawn" else streamed
    validation = {"validation": {"rows": 2, "every": 4}}  # those are never cached
    plain, encoded = LatentTraining.encode, []

    def counting(self, pixel_values):
        encoded.append(len(pixel_values))
        return plain(self, pixel_values)

    monkeypatch.setattr(LatentTraining, "encode", counting)
    first = weights(train(make(tmp_path / "first", cache=cache, **validation)))
    held_out = sum(encoded[-1:])
    assert 3 <= sum(encoded[:-1]) <= 4  # whole batches
    encoded.clear()
    second = weights(train(make(tmp_path / "second", cache=cache, **validation)))
    assert encoded == [held_out] and all(torch.equal(second[name], value) for name, value in first.items())
    assert any("eval" in name for log in history(tmp_path / "second") for name in log)
    assert all(log["tokens_per_second_per_process"] > 0 for log in history(tmp_path / "second") if "loss" in log)
    assert json.loads((tmp_path / "cache" / "made_of.json").read_text())["pictures"] == 3
    with pytest.raises(ValueError, match=r"made of something else: pictures was 3, is 4. Name another"):
        train(make(tmp_path / "other", cache=cache | {"pictures": 4}, **validation))
    with pytest.raises(ValueError, match="vae.class was 'AutoencoderKLFlux2', is 'AutoencoderKL'"):
        train(make(tmp_path / "other", family="flux", cache=cache, **validation))


@pytest.mark.parametrize("part", ["vae", "tokenizer"])
def test_parts_that_changed_in_place_do_not_take_what_they_made_before(part, recipe, folders, tmp_path):
    """By a setting of the VAE alone, or by a weight of the tokenizer."""
    for name in ("sana", "vq_model"):
        shutil.copytree(folders / name, tmp_path / name)
    own = {"base": str(tmp_path / "sana"), "vq_model": str(tmp_path / "vq_model"), "training": {"max_steps": 1}}
    own["cache"] = {"folder": str(tmp_path / "cache"), "pictures": 2}
    train(recipe(tmp_path / "first", **own))
    if part == "vae":
        file = tmp_path / "sana" / "vae" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": 2.0}))
        message = "vae.config.scaling_factor was 0.41407, is 2.0"
    else:
        file = tmp_path / "vq_model" / "model.safetensors"
        tensors = load_file(file)
        tensors["feature_norm.bias"] += 1
        save_file(tensors, file, metadata={"format": "pt"})
        message = "tokenizer.weights was"
    with pytest.raises(ValueError, match=f"made of something else: {message}"):
        train(recipe(tmp_path / "second", **own))


def test_a_cache_has_what_encoding_gives_in_another_order_each_epoch(tmp_path):
    """Three pictures of one size and two of another, in batches of two of one size."""
    arguments = training_arguments({"use_cpu": True}, output_dir=str(tmp_path))
    sizes, number, batches = [(3, 2, 2), (2, 2, 4)], 0, []
    for count, height, width in sizes:
        latents = torch.arange(number, number + count).view(-1, 1, 1, 1).expand(-1, 5, height, width).float()
        batches.append((latents, torch.full((count, height, 2 * width), 65535)))
        number += count
    encode_once(tmp_path / "cache", {"made": "so"}, batches, arguments, 5)
    data = CachedLatents(tmp_path / "cache", length=60, batch_size=2, seed=0)
    order = []
    for first in range(0, len(data), 2):
        samples = [data[first], data[first + 1]]
        for each in samples:
            assert each["latents"].shape == samples[0]["latents"].shape and each["latents"].unique().numel() == 1
            assert each["codes"].shape == (each["latents"].shape[1], 2 * each["latents"].shape[2])
            assert (each["codes"] == 65535).all()
            order.append(int(each["latents"][0, 0, 0]))
    epochs = np.array(order).reshape(-1, 6)
    assert all(set(epoch) == set(range(5)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 5
    again = CachedLatents(tmp_path / "cache", length=60, batch_size=2, seed=0)
    assert [int(again[place]["latents"][0, 0, 0]) for place in reversed(range(60))] == order[::-1]


def test_a_folder_of_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.png").write_text("mine")
    cache = {"folder": str(tmp_path / "pictures"), "pictures": 2}
    with pytest.raises(ValueError, match=re.escape("pictures holds no cache of latents (no made_of.json), but files")):
        train(recipe(tmp_path / "run", cache=cache))
    assert [each.name for each in (tmp_path / "pictures").iterdir()] == ["mine.png"]
