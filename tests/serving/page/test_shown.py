"""What the page shows while arm-tiny draws and answers: pictures with captions, parts in their order, and how fast."""

import asyncio
import re

import pytest

from transformers_arm.serving.arm_engine import ArmEngine
from transformers_arm.serving.engine import ConversationRequest, InvalidRequest, PictureRequest
from transformers_arm.serving.page.shown import answer, heading, pictures, words
from transformers_arm.worlds.shapes.scores import picture_is_right

PROMPT = "a red circle above a blue square"
SPEED = re.compile(r"(\d+) tokens in [\d.]+ s: \d+ a second\.")


@pytest.fixture(scope="module")
def engine(draw):
    engine = ArmEngine(draw, name="tiny")
    yield engine
    engine.close()


def shown(updates):
    async def collect():
        return [update async for update in updates]

    return asyncio.run(collect())


def test_the_heading_says_where_it_runs_and_what_a_picture_takes(engine):
    assert heading(engine.about).startswith(
        "float32 on cpu. 48x48 px are 9 tokens, 16x16 px each; up to 2,048 px a side"
    )


def test_pictures_are_shown_while_they_come_and_have_their_seeds_in_the_end(engine):
    updates = shown(pictures(engine, PictureRequest(PROMPT, count=2, seed=3, previews=8)))
    captions = [[caption for _, caption in tiles] for tiles, _ in updates]
    assert captions[0] == [] and ["row 1 of 3", "row 1 of 3"] in captions
    assert captions[-1] == ["seed 3", "seed 4"] and SPEED.match(updates[-1][1])[1] == "18"
    assert all(picture_is_right(PROMPT, picture) for picture, _ in updates[-1][0])


def test_an_answer_of_words_grows(engine):
    request = ConversationRequest([{"role": "user", "content": PROMPT}], max_tokens=4, temperature=0.0)
    texts, lines = zip(*shown(words(engine, request)), strict=True)
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert texts[0] == "" and SPEED.match(lines[-1])


def test_previews_make_room_for_the_pictures_of_a_story(engine):
    request = ConversationRequest(
        [{"role": "user", "content": f"tell a story of {PROMPT}"}], pictures=True, seed=0, previews=3
    )
    updates = shown(answer(engine, request))
    (parts, line, over) = updates[-1]
    assert over and "Seed 0." in line and any("Drawing: row" in each for _, each, _ in updates)
    kinds = [part["type"] for part in parts]
    assert all(first != second for first, second in zip(kinds, kinds[1:], strict=False)) and "image" in kinds
    first = next(part["image"] for part in parts if part["type"] == "image")
    assert picture_is_right(PROMPT, first)


def test_a_time_in_which_others_were_served_is_no_speed(engine):
    async def run():
        many = pictures(engine, PictureRequest(PROMPT, count=8))
        one = pictures(engine, PictureRequest(PROMPT))
        await anext(many)
        return [line async for _, line in one], [line async for _, line in many]

    behind, first = asyncio.run(run())
    assert behind[0] == "Waiting; 8 before this." and re.fullmatch(
        r"9 tokens in .* s, 8 others before them.", behind[-1]
    )
    assert SPEED.match(first[-1])


def test_what_an_engine_refuses_is_raised_before_anything_is_shown(engine):
    seen = []

    async def run(updates):
        async for each in updates:
            seen.append(each)

    for show, asked in (
        (pictures, PictureRequest(PROMPT, size=(50, 48))),
        (answer, ConversationRequest([])),
        (words, ConversationRequest([])),
    ):
        with pytest.raises(InvalidRequest, match="multiples of 16|no messages"):
            asyncio.run(run(show(engine, asked)))
    assert seen == []
