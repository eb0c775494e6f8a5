"""An ARM behind the protocol: what it draws and answers is what it does alone, whatever stands beside it."""

import asyncio
import threading
from contextlib import aclosing

import numpy as np
import pytest
import torch
from arm_server import ARM_TINY
from PIL import Image
from pipeline_requests import assert_same, picture

from transformers_arm.pipeline_arm import ArmImageEditingPipeline
from transformers_arm.serving.arm_conversations import SLICE
from transformers_arm.serving.arm_engine import ArmEngine
from transformers_arm.serving.engine import (
    Closed,
    ConversationRequest,
    Failed,
    Finished,
    InvalidRequest,
    Picture,
    PictureRequest,
    Preview,
    Sampling,
    Text,
)

PROMPT, OTHER = "a red circle above a blue square", "a small green triangle"
STORY = [{"role": "user", "content": "tell a story of a red circle above a blue square"}]


@pytest.fixture
def engine(draw):
    engine = ArmEngine(draw, name="tiny", max_batch=4)
    yield engine
    engine.close()


class Held:
    """Keeps an engine's thread from its next batch, so that what comes meanwhile is drawn together."""

    def __init__(self, engine):
        self.engine, self.batches, self.go = engine, [], threading.Event()
        self.run = engine._run

    def __enter__(self):
        def run(jobs):
            self.go.wait(60)
            self.batches.append(len(jobs))
            self.run(jobs)

        self.engine._run = run
        return self

    def __exit__(self, *error):
        self.engine._run = self.run


async def collected(coming):
    async with aclosing(await coming) as events:
        return [event async for event in events]


def answers(engine, *requests, together=True):
    """Events of each request, of which as many as can be are drawn together."""

    async def run():
        with Held(engine) as held:
            tasks = [
                asyncio.ensure_future(
                    collected(engine.draw(each) if isinstance(each, PictureRequest) else engine.converse(each))
                )
                for each in requests
            ]
            while together and sum(engine.line.counts) < sum(getattr(each, "count", 1) for each in requests):
                await asyncio.sleep(0.01)
            held.go.set()
            return await asyncio.gather(*tasks), held.batches

    return asyncio.run(run())


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def codes_of(events):
    return [each.codes for each in sorted(of_kind(events, Picture), key=lambda each: each.number)]


def test_pictures_are_those_of_the_pipeline_and_of_their_seeds(engine, draw):
    (events,), _ = answers(engine, PictureRequest(PROMPT, seed=3, count=2))
    expected = draw([PROMPT, PROMPT], generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)])
    pictures = sorted(of_kind(events, Picture), key=lambda each: each.number)
    assert_same([each.image for each in pictures], expected)
    assert [each.seed for each in pictures] == [3, 4]
    assert events[-1] == Finished("stop", events[-1].usage)
    assert events[-1].usage.output_images == 18 and events[-1].usage.input_text > 10


def test_a_picture_does_not_depend_on_what_is_drawn_beside_it(engine):
    requests = [
        PictureRequest(PROMPT, seed=7),
        PictureRequest(OTHER + ", and a large yellow circle right of it", seed=8),
        PictureRequest("a star", seed=9, previews=2),
        PictureRequest("", seed=10),
    ]
    together, batches = answers(engine, *requests)
    assert max(batches) > 1
    alone = [answers(engine, each)[0][0] for each in requests]
    assert [codes_of(each) for each in together] == [codes_of(each) for each in alone]


def test_grids_guidance_and_settings_of_any_kind_are_drawn_side_by_side(engine):
    requests = [
        PictureRequest(PROMPT, seed=1, size=(64, 32)),
        PictureRequest(PROMPT, seed=1, sampling=Sampling(guidance_scale=1.0)),
        PictureRequest(PROMPT, seed=1, sampling=Sampling(temperature=0.0, quality="low")),
        PictureRequest(PROMPT, seed=1, size=(64, 32)),
        ConversationRequest(STORY, seed=1),
    ]
    together, batches = answers(engine, *requests)
    assert sum(batches) >= 5
    shapes = [np.shape(codes_of(each)) for each in together]
    assert shapes[:4] == [(1, 2, 4), (1, 3, 3), (1, 3, 3), (1, 2, 4)]
    assert codes_of(together[0]) == codes_of(together[3])
    assert of_kind(together[0], Picture)[0].image.size == (64, 32)
    for request, events in zip(requests, together, strict=True):
        assert codes_of(answers(engine, request)[0][0]) == codes_of(events)


def test_a_seed_is_told_where_none_was_stated(engine):
    (events,), _ = answers(engine, PictureRequest(PROMPT))
    again, _ = answers(engine, PictureRequest(PROMPT, seed=of_kind(events, Picture)[0].seed))
    assert codes_of(events) == codes_of(again[0])


@pytest.mark.parametrize(("previews", "rows"), [(0, []), (1, [2]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_previews_lie_evenly_over_the_rows(engine, previews, rows):
    (shown, plain), _ = answers(
        engine, PictureRequest(PROMPT, seed=1, previews=previews), PictureRequest(PROMPT, seed=1)
    )
    assert [(each.rows, each.of) for each in of_kind(shown, Preview)] == [(row, 3) for row in rows]
    assert not of_kind(plain, Preview) and codes_of(plain) == codes_of(shown)


def test_edits_are_those_of_the_pipeline(engine, draw):
    edit = ArmImageEditingPipeline(draw.model, processor=draw.processor, detokenizer=draw.detokenizer)
    source, mask = picture(60, 40), Image.new("L", (60, 40))
    mask.paste(255, (0, 0, 30, 40))
    masked, plain, several = answers(
        engine,
        PictureRequest(PROMPT, [source], mask, seed=1),
        PictureRequest(PROMPT, [source], seed=2),
        PictureRequest(PROMPT, [source, picture(seed=1)], seed=3),
    )[0]
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    expected = edit([source, source], [PROMPT, PROMPT], [mask, None], generator=seeds)
    expected.append(edit(images=[source, picture(seed=1)], prompt=PROMPT, generator=torch.Generator().manual_seed(3)))
    drawn = [of_kind(events, Picture)[0].image for events in (masked, plain, several)]
    assert_same(drawn, expected)
    assert plain[-1].usage.input_images == 9 and several[-1].usage.input_images == 18


def test_an_edit_of_a_stated_size_has_that_size(engine):
    (events,), _ = answers(engine, PictureRequest(PROMPT, [picture(60, 40)], size=(64, 48), seed=1))
    assert of_kind(events, Picture)[0].image.size == (64, 48)


def test_an_answer_is_that_of_generate(engine, draw):
    asked = [
        {"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "what is it?"}]}
    ]
    (events, _), _ = answers(engine, ConversationRequest(asked), ConversationRequest(STORY))
    inputs = draw.processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = draw.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert "".join(each.text for each in of_kind(events, Text)) == draw.processor.decode(ids, skip_special_tokens=True)
    assert events[-1].usage.input_images == 9 and events[-1].usage.output_text == len(ids)


def test_texts_and_pictures_are_those_of_the_pipeline(engine):
    from transformers import pipeline

    tell = pipeline("interleaved", model=str(ARM_TINY), device="cpu")
    expected = tell(STORY, generator=torch.Generator().manual_seed(5))
    beside = [PictureRequest(OTHER, seed=1), ConversationRequest(STORY, pictures=True, seed=6, temperature=1.0)]
    (events, *_), _ = answers(engine, ConversationRequest(STORY, pictures=True, seed=5, previews=1), *beside)
    parts = [part for part in events if isinstance(part, (Text, Picture))]
    assert [each.number for each in of_kind(events, Preview)] == list(range(len(of_kind(events, Picture))))
    pictures = [part["image"] for part in expected if part["type"] == "image"]
    assert pictures
    assert_same([part.image for part in parts if isinstance(part, Picture)], pictures)
    texts = "".join(part["text"] for part in expected if part["type"] == "text")
    assert "".join(part.text for part in parts if isinstance(part, Text)) == texts


def test_sampled_texts_depend_on_their_seeds_alone(engine):
    requests = [ConversationRequest(STORY, seed=seed, temperature=1.5, max_tokens=20) for seed in (1, 1, 2)]
    together, _ = answers(engine, *requests)
    alone, _ = answers(engine, requests[0])
    texts = ["".join(each.text for each in of_kind(events, Text)) for events in (*together, alone[0])]
    assert texts[0] == texts[1] == texts[3] != texts[2]


def test_long_texts_let_others_go_between(engine):
    """After each slice of tokens the line is gone through again: what came after a long text is done before it."""
    story = ConversationRequest(STORY, max_tokens=400, temperature=50.0, seed=0)  # which hardly ever ends by itself
    done = []

    async def noted(name, coming):
        events = await collected(coming)
        done.append(name)
        return events

    async def run():
        with Held(engine) as held:
            tasks = [asyncio.ensure_future(noted("text", engine.converse(story)))]
            while sum(engine.line.counts) < 1:
                await asyncio.sleep(0.01)
            tasks.append(asyncio.ensure_future(noted("picture", engine.draw(PictureRequest(PROMPT, seed=1)))))
            while sum(engine.line.counts) < 2:
                await asyncio.sleep(0.01)
            held.go.set()
            return await asyncio.gather(*tasks)

    long, short = asyncio.run(run())
    assert len(codes_of(short)) == 1 and done == ["picture", "text"]
    assert 2 * SLICE < long[-1].usage.output_text <= 400


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("said", ["x", STORY[0]["content"]])
def test_the_likeliest_of_what_may_come_are_kept(engine, said, pictures):
    """What the grammar forbids is no part of top_p: of next to nothing it keeps the token that is taken without it."""
    given = {"messages": [{"role": "user", "content": said}], "max_tokens": 12, "seed": 1, "pictures": pictures}
    sure, nearly = ConversationRequest(**given, temperature=0), ConversationRequest(**given, top_p=1e-6)
    texts = [[event.text for event in of_kind(answers(engine, each)[0][0], Text)] for each in (sure, nearly)]
    assert "".join(texts[0]) == "".join(texts[1])


@pytest.mark.parametrize("pictures", [False, True])
def test_an_answer_ends_where_its_bound_is(engine, pictures):
    (events,), _ = answers(engine, ConversationRequest(STORY, max_tokens=2, pictures=pictures))
    assert events[-1].reason == "length" and events[-1].usage.output_text <= 3 and not of_kind(events, Picture)


@pytest.mark.parametrize(
    ("request_", "parameter", "match"),
    [
        (PictureRequest(PROMPT, size=(50, 48)), "size", "50x48 .* multiples of 16 px"),
        (PictureRequest(PROMPT, size=(48, 2064)), "size", "16 to 2048"),
        (PictureRequest(PROMPT, size=(2048, 2048)), "size", "16384.*4096 together"),
        (PictureRequest("a " * 9000), "prompt", "4096 together; shorten the prompt"),
        (PictureRequest(PROMPT, count=0), "count", "count 0 must be 1 or more"),
        (PictureRequest(PROMPT, seed=-1), "seed", "seed -1"),
        (PictureRequest(PROMPT, seed=2**63 - 1, count=2), "seed", "those that follow"),
        (PictureRequest(PROMPT, mask=picture()), "mask", "there is none"),
        (PictureRequest(PROMPT, [picture()], picture(32, 32, "L")), "mask", "32x32 px .* 48x48"),
        (PictureRequest(PROMPT, sampling=Sampling(guidance_scale=float("nan"))), "sampling", "guidance_scale nan"),
        (ConversationRequest([]), "messages", "no messages"),
        (ConversationRequest([{"role": "user", "content": "a " * 9000}]), "messages", "tokens.*shorten it"),
        (ConversationRequest(STORY, temperature=-0.5), "temperature", "temperature -0.5 must be 0"),
        (ConversationRequest(STORY, temperature=float("nan")), "temperature", "temperature nan"),
        (ConversationRequest(STORY, temperature=0, top_p=0.0), "top_p", "top_p 0.0 must be above 0"),
        (ConversationRequest(STORY, max_tokens=0), "max_tokens", "max_tokens 0 must be 1"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_waits(engine, request_, parameter, match):
    with pytest.raises(InvalidRequest, match=match) as refused:
        answers(engine, request_, together=False)
    assert refused.value.parameter == parameter and engine.load.waiting == 0


def test_control_tokens_in_a_prompt_are_text(engine, draw):
    (events,), _ = answers(engine, PictureRequest("<|im_end|><|vision_start|><|h:3|>", seed=1))
    plain, _ = answers(engine, PictureRequest("", seed=1))
    assert events[-1].usage.input_text > plain[0][-1].usage.input_text + 10


def test_one_that_fails_harms_no_other(engine, draw, monkeypatch, caplog):
    plain, padding = draw.model.generate, draw.model.generation_config.pad_token_id

    def without_long_prompts(*args, **kwargs):
        if ((kwargs["input_ids"] != padding).sum(1) > 100).any():
            raise RuntimeError("the device is on fire")
        return plain(*args, **kwargs)

    monkeypatch.setattr(draw.model, "generate", without_long_prompts)
    long = "a red circle above " * 30

    async def failing():
        with pytest.raises(Failed, match="failed at this request; the server's log says why") as failed:
            await collected(engine.draw(PictureRequest(long, seed=1)))
        assert "fire" not in str(failed.value)

    async def run():
        with Held(engine) as held:
            good = [asyncio.ensure_future(collected(engine.draw(PictureRequest(PROMPT, seed=s)))) for s in (1, 2)]
            bad = asyncio.ensure_future(failing())
            while sum(engine.line.counts) < 3:
                await asyncio.sleep(0.01)
            held.go.set()
            return await asyncio.gather(*good, bad)

    first, second, _ = asyncio.run(run())
    assert [len(codes_of(first)), len(codes_of(second))] == [1, 1]
    assert "the device is on fire" in caplog.text


def test_closing_what_is_read_frees_its_place(engine):
    async def run():
        with Held(engine) as held:
            first, second = [await engine.draw(PictureRequest(PROMPT, seed=seed, count=3)) for seed in (1, 2)]
            await second.aclose()
            assert sum(engine.line.counts) <= 3 + 1
            await first.aclose()
            held.go.set()
        while sum(engine.line.counts):
            await asyncio.sleep(0.01)
        return await collected(engine.draw(PictureRequest(PROMPT, seed=1)))

    assert len(codes_of(asyncio.run(run()))) == 1


def test_what_nobody_waits_for_any_more_stops_half_way(engine, draw, monkeypatch):
    rendered = []
    monkeypatch.setattr("transformers_arm.pipeline_arm.rendered", lambda *args, **kwargs: rendered.append(args))

    async def run():
        events = await engine.draw(PictureRequest(PROMPT, seed=1, previews=3))
        assert isinstance(await anext(events), Preview)
        await events.aclose()
        while sum(engine.line.counts):
            await asyncio.sleep(0.01)
        return [event async for event in events]

    assert asyncio.run(run()) == [] and not rendered


def test_a_closed_engine_takes_nothing(draw):
    engine = ArmEngine(draw)
    engine.close()
    with pytest.raises(Closed):
        answers(engine, PictureRequest(PROMPT), together=False)


def test_it_says_what_it_is(engine):
    about = engine.about
    assert (about.model, about.patch_size, about.size, about.max_tokens) == ("tiny", 16, (48, 48), 4096)
    assert (about.device, about.dtype, about.max_side) == ("cpu", "float32", 2048)
