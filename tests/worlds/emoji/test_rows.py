"""Rows: means with intervals, the weakest cell beside them, figures by name, a table that has both judges."""

import pytest

from transformers_arm.evaluation.intervals import Interval
from transformers_arm.worlds.emoji.rows import CELL, Row, Scored, as_result, flat, table
from transformers_arm.worlds.emoji.scores import read_originals


@pytest.fixture(scope="module")
def light_and_dark(emoji_folder):
    """As many people of either tone as a cell must have."""
    drawn = read_originals().drawn
    return [[each for each in drawn if each.emoji.tones == (tone,)][:CELL] for tone in ("light", "dark")]


@pytest.fixture
def row(light_and_dark):
    """All of the light ones right, and half of the dark; the second judge sees one more right, and one less."""
    light, dark = light_and_dark
    items = [Scored({"right": True, "judge_right": number > 0}, each) for number, each in enumerate(light)]
    items += [Scored({"right": number < 5, "judge_right": number < 6}, each) for number, each in enumerate(dark)]
    return Row("generation_tone", "right", items)


def test_the_weakest_cell_stands_beside_the_mean(row):
    assert row.means["right"].mean == 0.75 and row.means["judge_right"].mean == 0.75
    assert row.cells["tone dark"].mean == 0.5 and row.cells["tone light"].mean == 1.0
    assert row.weakest == "tone dark"
    figures = row.figures()
    assert figures["generation_tone"] == 0.75 and figures["generation_tone_weakest"] == 0.5
    assert figures["generation_tone_judge_right"] == 0.75 and "generation_tone_majority" not in figures


def test_a_cell_of_too_few_is_none(light_and_dark):
    light, dark = light_and_dark
    row = Row("generation", "right", [Scored({"right": each in light}, each) for each in (*light, *dark[1:])])
    assert "tone light" in row.cells and "tone dark" not in row.cells
    few = Row("generation", "right", row.items[:3])
    assert few.cells == {} and few.weakest is None and "generation_weakest" not in few.figures()


def test_kinds_are_cells_and_items_without_the_main_score_are_not_in_them(light_and_dark):
    light, dark = light_and_dark
    items = [Scored({"target": True, "tone": True}, each, "tone") for each in light]
    items += [Scored({"hair": False}, each, "hair") for each in dark]
    row = Row("editing", "target", items)
    assert row.means["target"].mean == 1.0 and row.means["hair"].mean == 0.0
    assert set(row.cells) >= {"kind tone", "tone light"} and not {"kind hair", "tone dark"} & set(row.cells)


def test_questions_have_what_the_commonest_answer_gets(light_and_dark):
    light, dark = light_and_dark
    asked = [Scored({"right": False}, each, "tone", each.emoji.tones[0]) for each in (*light, *dark[:5])]
    row = Row("understanding_tone", "right", asked)
    assert row.majority == row.figures()["understanding_tone_majority"] == pytest.approx(2 / 3)
    assert "| 0.667 |" in table([row])


def test_a_table_has_both_judges_and_a_result_all_cells(row):
    line = table([row]).splitlines()[-1]
    assert line.startswith("| generation_tone | 20 | 0.75 (") and line.endswith(" / 0.750 | tone dark 0.500 of 10 |")
    result = as_result([row])
    assert result["figures"] == row.figures() and result["weakest"] == {"generation_tone": "tone dark"}
    assert result["cells"]["generation_tone"]["tone light"]["items"] == 10


def test_scores_are_flat_with_their_bounds():
    means = {"right": Interval(0.5, 0.4, 0.6, 9), "tone_majority": 0.2}
    assert flat("generation", means, "right") == {
        "generation": 0.5,
        "generation_low": 0.4,
        "generation_high": 0.6,
        "generation_tone_majority": 0.2,
    }
