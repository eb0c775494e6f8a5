"""Figures are found as people write them and readers see them, and are backed by what they round."""

import json
import random
import time
from decimal import Decimal

import pytest
from push_folders import write_card

from transformers_arm.evaluation.results import write_result
from transformers_arm.hub.card import unbacked_figures
from transformers_arm.hub.figures import Measured, figures_in


def found(text):
    return [str(value) for figure in figures_in(text) for value in figure.values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.875", ["0.875"]),
        ("0&#46;875 and 0&period;5", ["0.875", "0.5"]),
        ("&minus;0.5&nbsp;dB", ["-0.5"]),
        ("1,234.5 and 1.234,5 and 1\N{NO-BREAK SPACE}234.5 and 1\N{THIN SPACE}234.5 and 1'234.5", ["1234.5"] * 5),
        ("1&nbsp;234.5", ["1234.5"]),
        ("1 000.5", ["1000.5"]),
        ("12 000 000.5", ["12000000.5"]),
        ("of 3 100.5", ["100.5", "3100.5"]),
        ("-1 000.5", ["-1000.5"]),
        ("0,875 and 87,5 of", ["0.875", "87.5"]),
        ("\N{MINUS SIGN}0.5, \N{FULLWIDTH HYPHEN-MINUS}0.25, +-0.75", ["-0.5", "-0.25", "0.75"]),
        ("0.1-0.3", ["0.1", "0.3"]),
        ("0.1,0.5 [0.25,1]", ["0.1", "0.5", "0.25"]),
        ("0.<b>875</b>, 0.**5**, 0\\.25, *0.75*, 0.\u200b125", ["0.875", "0.5", "0.25", "0.75", "0.125"]),
        ("1.5e-3", ["0.0015"]),
        ("99 %, 98%, 97\N{NARROW NO-BREAK SPACE}%", ["99", "98", "97"]),
        ("96 percent, 95 per cent, 94&#37;", ["96", "95", "94"]),
        ("87.5%, 1,000 %, -3 %", ["87.5", "1000", "-3"]),
        ("see <!-- 0.5 --> `0.5` [0.25](x/0.75.png) https://example.com/0.5 <img width='0.5'>", ["0.25"]),
        ("Qwen2.5, 2.13.0, apache-2.0, v_2.5, arXiv 2606.11188, section 3.1", []),
        ("48 px, 1,024 codes, 2026-01-01, steps 1,2,3, May 3,2026, 3e-5, 2*3", []),
        ("never closed <!-- 0.5", ["0.5"]),
        ("Needs Python 3.11, 3.12 or 3.13, torch >=2.11, **CUDA** 12.4, [Ubuntu](x) 22.04, Foo 2.5 or later.", []),
        ("Unlike Llama 3.1 8B, Qwen 2.5 7B, Unknown 4.5 70B and Gemini 2.5 it is under CC BY 4.0 or Apache 2.0.", []),
        ("It has 7.6B parameters, 1.5M of them new, read 1.2 trillion tokens in 3.5 hours (2.5 GPU-hours).", []),
        ("DOI 10.48550/arXiv.2606.11188, Table 2.1, Tables 3.1 and 3.2, Fig. 4.5, Sec. 1.2", []),
        ("GenEval 0.88, PSNR 31.04 dB, FID 2.3, SSIM 0.9, Score 7.5, MME 1.5", "0.88 31.04 2.3 0.9 7.5 1.5".split()),
        ("Qwen 71.5, Qwen 0.7, Llama 3.15, Gemini 2.5%, Python 3.11 %", ["71.5", "0.7", "3.15", "2.5", "3.11"]),
        ("Python 3.11, 0.95 of all; of Qwen 2.5 0.61; 1.5x; 0.5 seconds", ["0.95", "0.61", "1.5", "0.5"]),
        ("of 7.6B 99.5% and 0.75", ["99.5", "0.75"]),
        ("1. Install:\n\n   ```bash\n   torch==0.5\n   ```\n\n> ~~~\n> 0.5\n> ~~~\n0.25", ["0.25"]),
    ],
)  # fmt: skip
def test_figures_are_found_as_they_are_seen(text, values):
    assert found(text) == values


def test_cells_of_tables_are_told_from_prose():
    text = "| 0.5 |\n<table><tr><td>0.25</td><td>0.75</td></tr></table>\n0.125"
    assert [(figure.written, figure.in_table) for figure in figures_in(text)] == [
        ("0.5", True),
        ("0.25", True),
        ("0.75", True),
        ("0.125", False),
    ]


@pytest.mark.parametrize(
    ("text", "number", "backed"),
    [
        ("99 %", "0.99", True),
        ("99 %", "99", True),
        ("99%", "0.9949", True),
        ("99%", "0.9951", False),
        ("99%", "98.4", False),
        ("87.4%", "0.8737", True),
        ("87.5%", "0.8737", False),
        ("0.874", "0.8737", True),
        ("0.874", "87.37", False),
        ("-0.5", "0.5", False),
        ("3 100.5", "3100.5", True),
        ("3 100.5", "100.5", True),
        ("1 000.5", "0.5", False),
        ("0.9", "0.95", True),  # half a unit is as near as the next one
        ("1.50", "1.51", False),
    ],
)
def test_a_figure_is_backed_by_what_rounds_to_it(text, number, backed):
    (figure,) = figures_in(text)
    numbers = [Decimal("-1e9"), Decimal(number), Decimal("1e9")]
    assert Measured(numbers).backs(figure) == backed
    assert not Measured([]).backs(figure)


def test_a_long_card_is_read_in_time_that_grows_with_its_length(tmp_path):
    rng = random.Random(0)
    numbers = [round(rng.random(), 6) for _ in range(50_000)]
    rows = [
        f"| {number:.3f} |" if index % 2 else f"It is {100 * number:.1f} %."
        for index, number in enumerate(numbers[:5_000])
    ]
    write_card(tmp_path, "\n".join(rows) + "\n\n**7.777**\n")
    write_result(tmp_path / "results" / "many.json", numbers=numbers)
    start = time.process_time()
    assert [each.partition(":")[0] for each in unbacked_figures(tmp_path)] == ["7.777"]
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    ["1,", "1", "](", "<!--", "<b", "`", "1 ", ".1", "1.1.", "&", "a-1", "```\n", "*", "https://", "_1", "Table ",
     "Python 3.1, 3.1", "1.5 G", " ", "> ", "  ```\n"],
)  # fmt: skip
def test_no_text_takes_long(text):
    start = time.process_time()
    list(figures_in(text * (200_000 // len(text))))
    assert time.process_time() - start < 5


def test_numbers_of_settings_back_prose_alone(tmp_path):
    write_card(tmp_path, "Drawn at 0.4375, guided at 44 %.\n")
    assert len(unbacked_figures(tmp_path)) == 2
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.4375}))
    assert unbacked_figures(tmp_path) == []


def test_what_is_not_published_backs_nothing(tmp_path):
    write_card(tmp_path, "| 0.4375 |")
    write_result(tmp_path / "results" / ".kept.json", scores={"one": 0.4375})
    assert len(unbacked_figures(tmp_path)) == 1
    (tmp_path / "results" / ".kept.json").rename(tmp_path / "results" / "kept.json")
    assert unbacked_figures(tmp_path) == []
