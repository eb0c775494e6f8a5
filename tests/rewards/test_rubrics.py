"""Which answers a rubric reads scores from, in what time, and which rubrics cannot be."""

import json
import time

import pytest
from judge_endpoint import GOOD

from transformers_arm.rewards.rubrics import RUBRICS, Rubric

SCORES = {"objects": 8.0, "attributes": 6.0, "relations": 10.0}
POOR = '{"objects": 1, "attributes": 2, "relations": 3}'


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        '{"relations": 10.0, "objects": 8.0, "attributes": 6e0}',
        f"```json\n{GOOD}\n```",
        f"\n```\n{GOOD}```\n",
        f"Here you are:\n```json\n{GOOD}\n```\nThe cube is red {{as asked}}.",
        f'The set {{red, cube}} is there, {{and}} so is {{"a": 1}}. {GOOD} I hope this helps!',
        f"<think>A draft: {POOR} No. {{</think>\n\n{GOOD}",
        f"so {POOR}</think>{GOOD}",  # where the prompt opens the reasoning
        f"[THINK]{POOR}[/THINK]{GOOD}",
        f"{GOOD}\nAs JSON again: {json.dumps(SCORES, indent=2)}",
        f"[{GOOD}]",
        f'{{"scores": {GOOD}}}',
        '{"objects": 8, "attributes": "6", "relations": "10.0", "comment": "a {fine} cube"}',
        '{"objects": 8, "attributes": 6, "relations": 10, "why": {"objects": ["cube"]},}',
    ],
)
def test_answers_that_count(answer):
    assert RUBRICS["text_to_image"].parse(answer) == SCORES


def test_what_a_prompt_does_not_state_may_be_null():
    scores = RUBRICS["text_to_image"].parse('{"objects": 9, "attributes": 7, "relations": null}')
    assert scores == {"objects": 9.0, "attributes": 7.0, "relations": None}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "Not one JSON object with the keys objects, attributes, relations"),
        ("The picture is lovely: 9 out of 10.", "Not one JSON object"),
        (GOOD[:-1], "Not one JSON object"),
        (GOOD.replace('"', "'"), "Not one JSON object"),
        ('[["objects", 8], ["attributes", 6], ["relations", 10]]', "Not one JSON object"),
        ('{"objects": 8, "attributes": 6}', "Not one JSON object"),
        ('{"objects": {}, "attributes": 6, "relations": 10}', "objects is {}"),
        ('{"objects": ' + "9" * 5000 + ', "attributes": 6, "relations": 10}', "Not one JSON object"),
        (f"<think>{GOOD}</think>", "Not one JSON object"),
        (f"<think>{GOOD}", "Reasoning that does not end; raise max_tokens"),
        (f"First {POOR}, and on reflection {GOOD}", "2 JSON objects with different scores"),
        (f"<think>Hm.</think>{POOR}{GOOD}{GOOD}", "3 JSON objects with different scores"),
        ('{"objects": 8, "objects": 2, "attributes": 6, "relations": 10}', "A key given twice"),
        (f'{GOOD} {{"objects": 8, "objects": 2, "attributes": 6, "relations": 10}}', "A key given twice"),
        ('{"objects": 11, "attributes": 6, "relations": 10}', "objects is 11, not a number in 0..10"),
        ('{"objects": -0.1, "attributes": 6, "relations": 10}', "objects is -0.1"),
        ('{"objects": NaN, "attributes": 6, "relations": 10}', "objects is nan"),
        ('{"objects": 1e999, "attributes": 6, "relations": 10}', "objects is inf"),
        ('{"objects": true, "attributes": 6, "relations": 10}', "objects is True"),
        ('{"objects": "good", "attributes": 6, "relations": 10}', "objects is 'good'"),
        ('{"objects": "nan", "attributes": 6, "relations": 10}', "objects is 'nan'"),
        ('{"objects": [8], "attributes": 6, "relations": 10}', "objects is"),
        ('{"objects": null, "attributes": 6, "relations": 10}', "objects is None"),
        (" " * 100_000 + GOOD, "An answer of 100048 characters, more than 100000"),
    ],
)
def test_answers_that_do_not_count(answer, message):
    with pytest.raises(ValueError) as error:
        RUBRICS["text_to_image"].parse(answer)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "piece", ["{", '{"objects":', '{"a":[', "[", '{"', "<think>", "</think>", '"', "\\", "{}", POOR[:-1] + " "]
)
def test_hostile_answers_take_linear_time(piece):
    answer = piece * (100_000 // len(piece))
    start = time.process_time()
    with pytest.raises(ValueError):
        RUBRICS["text_to_image"].parse(answer)
    assert time.process_time() - start < 1  # it runs on the event loop


def test_a_rubric_with_nothing_to_score():
    rubric = Rubric("r", "text", ("a",), optional=("a",))
    with pytest.raises(ValueError, match="Every score is null"):
        rubric.parse('{"a": null}')


def test_the_schema_names_the_criteria_and_which_may_be_null():
    schema = RUBRICS["text_to_image"].schema
    assert schema["required"] == ["objects", "attributes", "relations"] and not schema["additionalProperties"]
    number = {"type": "number"}
    assert schema["properties"] == {
        "objects": number,
        "attributes": number,
        "relations": {"anyOf": [number, {"type": "null"}]},
    }


def test_rubrics_that_cannot_work():
    with pytest.raises(ValueError, match="name at least one"):
        Rubric("r", "text", ())
    with pytest.raises(ValueError, match="and each once"):
        Rubric("r", "text", ("a", "a"))
    with pytest.raises(ValueError, match="names have no braces"):
        Rubric("r", "text", ("a{",))
    with pytest.raises(ValueError, match="are not among"):
        Rubric("r", "text", ("a",), optional=("b",))
    with pytest.raises(ValueError, match="must stay in 0..1"):
        Rubric("r", "text", ("a",), combine=lambda scores: scores["a"]).reward({"a": 8.0})
