"""Previews while tokens come: when they come, what they show, and that they change nothing."""

import pytest
import torch
from tiny_renderers import FAMILIES, new_renderer

from transformers_arm import ArmImageEditingPipeline, ArmPipeline, ArmProcessor, ArmTextToImagePipeline
from transformers_arm.modeling_arm import ArmForCausalLM

FOLDER = "checkpoints/arm-tiny"


class Seen(list):
    """A function that keeps the previews that it gets."""

    def __call__(self, number, rows, picture):
        self.append((number, rows, picture))


@pytest.fixture(scope="module")
def draw():
    model = ArmForCausalLM.from_pretrained(FOLDER)
    return ArmTextToImagePipeline(model, processor=ArmProcessor.from_pretrained(FOLDER))


@pytest.fixture(scope="module")
def edit(draw):
    return ArmImageEditingPipeline(draw.model, processor=draw.processor, detokenizer=draw.detokenizer)


def seeded():
    return torch.Generator().manual_seed(3)


def test_they_come_as_rows_do_and_are_numbered_through_batches_and_copies(draw):
    seen, puts = Seen(), []
    streamer = type("Rows", (), {"put": lambda _, value: puts.append(value.shape[1]), "end": lambda _: None})()
    prompts = ["a red circle", "two blue squares", "a green triangle"]
    draw(prompts, num_images_per_prompt=2, batch_size=2, preview=seen, preview_every=2, streamer=streamer, height=80)
    assert [(number, rows) for number, rows, _ in seen] == [
        *((number, rows) for rows in (2, 4) for number in range(4)),
        *((number, rows) for rows in (2, 4) for number in (4, 5)),
    ]
    assert {picture.size for *_, picture in seen} == {(48, 80)}
    assert puts == 2 * [3, 3, 3, 3, 3, 3, 1]  # another streamer gets all the same


@pytest.mark.parametrize("one_each", [False, True])
def test_neither_pictures_nor_random_numbers_change(draw, one_each):
    prompts, states, drawn = ["a red circle", "two blue squares"], [], []
    for options in ({}, {"preview": Seen()}):
        torch.manual_seed(0)
        generators = [seeded(), seeded()] if one_each else seeded()
        pictures = draw(prompts, batch_size=2, generator=generators, **options)
        generators = generators if one_each else [generators]
        states.append([torch.get_rng_state(), *(each.get_state() for each in generators)])
        drawn.append([picture.tobytes() for picture in pictures])
    assert drawn[0] == drawn[1]
    assert all(map(torch.equal, *states))


def test_rows_that_are_drawn_are_those_of_the_picture(draw):
    seen = Seen()
    picture = draw("a red circle left of a blue square", generator=seeded(), preview=seen)
    rows = [torch.tensor(list(each.convert("L").getdata())).view(48, 48).float() for *_, each in seen]
    whole = torch.tensor(list(picture.convert("L").getdata())).view(48, 48).float()
    for count, preview in enumerate(rows, 1):
        assert (preview - whole)[: 16 * count].abs().mean() < 2
    assert (rows[0] - whole)[16:].abs().mean() > 5  # what is to come is not there yet


def test_edits_and_diffusers_names_have_them_too(draw, edit):
    seen, picture = Seen(), draw("a red circle", generator=seeded())
    pair = [picture.resize((96, 32)), picture.resize((48, 48))]  # of two grids
    edit(pair, "make it green", batch_size=2, keep_aspect_ratio=True, max_pixels=96 * 32, preview=seen)
    assert sorted((number, rows, each.size) for number, rows, each in seen) == [
        *((0, rows, (96, 32)) for rows in (1, 2)),
        *((1, rows, (48, 48)) for rows in (1, 2, 3)),
    ]
    pipe, seen = ArmPipeline(draw.model, draw.processor, draw.detokenizer), Seen()
    pipe.set_progress_bar_config(disable=True)
    pipe("a red circle", preview=seen, preview_every=3, preview_steps=1)
    assert [(number, rows) for number, rows, _ in seen] == [(0, 3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_renderers_of_latents_render_them(draw, family):
    seen, z_size = Seen(), draw.model.config.vq_config.hidden_size
    pipe = ArmTextToImagePipeline(
        draw.model, processor=draw.processor, detokenizer=new_renderer(family, condition_size=z_size)
    )
    steps, plain = [], pipe.detokenizer.velocity
    pipe.detokenizer.velocity = lambda *args: steps.append(1) or plain(*args)
    pipe(
        "a red circle", num_inference_steps=3, decoder_guidance_scale=1, preview=seen, preview_steps=2, preview_every=3
    )
    assert [(rows, each.size) for _, rows, each in seen] == [(3, (48, 48))]
    assert len(steps) == 2 + 3


def test_none_costs_nothing(draw):
    calls, plain = [], draw.detokenizer.velocity
    draw.detokenizer.velocity = lambda *args: calls.append(1) or plain(*args)
    try:
        draw("a red circle", num_inference_steps=2)
    finally:
        del draw.detokenizer.velocity
    assert len(calls) == 2


def test_a_pipelines_own_are_defaults_of_its_calls(draw):
    seen, parts = Seen(), {"processor": draw.processor, "detokenizer": draw.detokenizer}
    pipe = ArmTextToImagePipeline(draw.model, **parts, preview=seen, preview_every=3)
    pipe("a red circle", preview_steps=1)
    pipe("a red circle", preview_every=2, preview_steps=1)
    pipe("a red circle", preview=None)
    pipe("a red circle", preview=None, image_grid=(2, 2))
    assert [(number, rows) for number, rows, _ in seen] == [(0, 3), (0, 2)]
    with pytest.raises(ValueError, match="preview_every is for previews, .* pass preview="):
        pipe("a red circle", preview=None, preview_every=2)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"preview_every": 2}, ValueError, "preview_every is for previews, .* pass preview="),
        ({"preview": "folder"}, TypeError, "preview is a str; pass a function"),
        ({"preview": print, "preview_every": 0}, ValueError, "preview_every 0 must be a whole number, 1 or more"),
        ({"preview": print, "preview_every": True}, ValueError, "preview_every True must be a whole number"),
        ({"preview": print, "preview_steps": 1.5}, ValueError, "preview_steps 1.5 must be a whole number"),
        (
            {"preview": print, "preview_every": 4},
            ValueError,
            r"4 is more than the 3 rows of a .* 3x3 tokens; take 1\.\.3",
        ),
    ],
)
def test_what_is_no_preview_is_refused_before_anything_is_drawn(draw, options, kind, message):
    seen = []
    streamer = type("Rows", (), {"put": lambda _, value: seen.append(value), "end": lambda _: None})()
    with pytest.raises(kind, match=message):
        draw("a red circle", streamer=streamer, **options)
    assert not seen


def test_a_model_that_leaves_its_device_to_render_is_refused(draw):
    hooks = pytest.importorskip("accelerate.hooks")
    hooks.add_hook_to_module(draw.model, hooks.CpuOffload(torch.device("cpu")))
    parts = {"processor": draw.processor, "detokenizer": draw.detokenizer}
    pipe = ArmTextToImagePipeline(draw.model, **parts, preview=print)
    try:
        for each, options in ((draw, {"preview": print}), (pipe, {})):
            with pytest.raises(ValueError, match="enable_model_cpu_offload has only one of them on its device"):
                each("a red circle", **options)
    finally:
        hooks.remove_hook_from_module(draw.model)
