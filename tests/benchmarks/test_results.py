"""Files of benchmarks/results name no folder of a machine, and what docs/speed.md says of the GPU is in them."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "speed.md").read_text()
RENDERERS = (ROOT / "docs" / "renderers.md").read_text()
ABSOLUTE = re.compile(r"(?:^|[\s'\"=(])(?:/|~/|[A-Za-z]:\\)[\w.]")


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def strings(value):
    """All of a result, the names of fields included."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_no_result_names_a_folder_of_a_machine(file):
    assert not [each for each in strings(json.loads(file.read_text())) if ABSOLUTE.search(each)]


@pytest.mark.parametrize("text", ["python /data/x.py", "--output=/data/x", "/srv/arm", "'~/arm'", "C:\\arm"])
def test_a_folder_of_a_machine_is_found(text):
    assert ABSOLUTE.search(text)


def table(heading: str, page: str = PAGE) -> dict[str, list[str]]:
    """Rows of the tables under a heading of a page, by their first cell."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    return {row[0]: row[1:] for row in rows}


def test_the_page_has_the_measured_milliseconds_a_token():
    one, many = result("speed_decoding_long_nvidia_h200")["rows"]
    assert (one["batch"], many["batch"]) == (1, 16)
    published = table("Measured")
    for name in ("ours", "ours, compiled", "products", "bandwidth"):
        expected = [f"{row['milliseconds_a_step'][name]:.2f}" for row in (one, many)]
        expected += [f"{row['tokens_a_second'][name]:,.0f}" for row in (one, many)]
        expected += [f"{row['shares'][name]['bandwidth']:.2f}" if "ours" in name else "" for row in (one, many)]
        assert published[name] == expected, name


def test_the_page_has_the_measured_milliseconds_a_token_beside_other_models():
    rows = result("speed_decoding_nvidia_h200")["rows"]
    assert [row["batch"] for row in rows] == [1, 16]
    published = table("Measured beside other models")
    for name in ("ours", "plain loop", "Janus", "Emu3", "products"):
        cells = [f"{row['milliseconds_a_step'][name]:.1f}" for row in rows]
        cells += [f"{row['tokens_a_second'][name]:,.0f}" for row in rows]
        cells += [f"{row['shares']['ours'][name]:.2f}" for row in rows]
        assert published[name] == cells, name


def test_the_page_has_what_changes_of_learning_to_answer_earn():
    published = table("What one change of learning to answer earns", (ROOT / "docs" / "results.md").read_text())
    cells = ["color_two", "color_three", "location_two", "location_three", "shape_three"]
    for name, (scores,) in result("changes_binding")["scores"].items():
        names = ["understanding", *cells, "existence_three", "relation_three"]
        assert published[name] == [f"{scores[each]:.3f}" for each in names]


def test_the_page_has_what_the_server_answers():
    published = table("Serving")
    for row in result("speed_serving")["rows"]:
        figures = ("requests_per_second", "times", "median_seconds", "slowest_seconds")
        assert published[str(row["clients"])] == [f"{row[name]:.2f}" for name in figures]


def test_the_page_has_the_measured_renderers():
    found = (
        result("speed_renderers_flux2_nvidia_h200")["renderers"] | result("speed_renderers_nvidia_h200")["renderers"]
    )
    published = table("Rendering")
    names = {"flux2": "FLUX.2-klein-base-4B", "sana": "Sana 1.5 1.6B", "flux": "FLUX.1 [dev]"}
    for key, name in names.items():
        for row in found[key]["rows"]:
            cells = [f"{row['seconds_a_picture']:.2f}", f"{row['vae_share']:.1%}", f"{row['ratio']:.2f}"]
            shown = published[f"{name}, {row['pictures']}"]
            assert row["finite"] and shown[:4] == [*cells, f"{row['peak_gib']:.1f}"]
            if shown[4]:
                assert shown[4] == f"{found[key]['offload']['peak_gib']:.1f}"
        tiling = found[key]["tiling"]
        assert f"{tiling['whole_gib']:.1f} GiB" in PAGE and f"{tiling['tiles_gib']:.1f} in tiles" in PAGE


def test_the_page_has_the_measured_milliseconds_a_token_on_a_cpu():
    rows = result("speed_decoding_cpu")["rows"]
    assert [row["batch"] for row in rows] == [1, 4, 16]
    published = table("Measured on a CPU")
    for name in ("ours", "plain loop", "Janus", "Emu3", "products"):
        expected = [f"{row['milliseconds_a_step'][name]:.1f}" for row in rows]
        assert published[name] == expected + [f"{row['shares']['ours'][name]:.2f}" for row in rows], name


def test_the_page_has_the_measured_steps_of_training():
    found = result("speed_training_nvidia_h200")
    published = table("Training")
    assert found["rows"]
    for row in found["rows"]:
        cells = [f"{row['seconds']:.3f}", f"{row['tokens_a_second']:,.0f}", f"{row['flops_share']:.1%}"]
        assert published[f"{row['attention']}, {row['tokens']:,}"] == [*cells, f"{row['gib']:.1f}"]
    assert {row["attention"] for row in found["rows"]} == {"sdpa", "flex_attention"}


def test_the_page_has_the_measured_steps_of_training_on_a_cpu():
    found = result("speed_training_cpu")
    published = table("Training")
    assert {row["attention"] for row in found["rows"]} == {"sdpa", "eager"} and found["threads"] == 1
    for row in found["rows"]:
        cells = [f"{row['seconds']:.3f}", f"{row['tokens_a_second']:,.0f}", f"{row['flops_share']:.1%}"]
        cells += [f"{row['gib']:.2f}", f"{row['waiting_share']:.1%}"]
        assert published[f"{row['attention']}, {row['tokens']:,}, CPU"] == cells
    assert found["command"].partition(" --output")[0] in " ".join(PAGE.split())


def test_the_page_has_the_tokens_that_were_compared():
    cases = result("same_tokens_nvidia_h200")["cases"].values()
    tokens, differ = (sum(case[name] for case in cases) for name in ("tokens", "differ"))
    assert f"{differ} of {tokens} tokens" in PAGE


def test_the_page_has_the_scores_on_the_card():
    for row in result("scores_nvidia_h200")["scores"].values():
        assert row["agrees"] and f"{row['here']:.3f} ({row['published']:.3f})" in PAGE


def test_the_readme_s_figure_is_the_measured_one():
    one = result("speed_decoding_long_nvidia_h200")["rows"][0]
    readme = " ".join((ROOT / "README.md").read_text().split())
    for name in ("ours", "ours, compiled"):
        assert f"{one['tokens_a_second'][name]:.0f}" in readme


@pytest.mark.parametrize("file", ["renderers", "renderers_sana"])
def test_the_page_of_renderers_has_what_they_made_of_the_same_tokens(file):
    found = result(file)
    published = table("Measured", RENDERERS)
    for name, rows in found["scores"].items():
        shown = [rows[f"{steps}, 1"] for steps in (4, 8, 28)]
        cells = [f"{row['psnr']:.1f}" for row in shown] + [f"{row['read_back']:.3f}" for row in shown]
        cells += [f"{shown[-1]['weakest_read_back']:.2f} ({shown[-1]['weakest']})"]
        vae = rows.get("its VAE alone")
        cells += [f"{vae['psnr']:.1f}, {vae['read_back']:.3f}" if vae else ""]
        assert published[name] == cells, name
    for pair, row in found["agreement"].items():
        assert published[pair.replace(", ", " and ", 1)] == [f"{row['read_alike']:.3f}", f"{row['psnr']:.1f}"], pair
    assert found["command"].partition(" --output")[0] in " ".join(RENDERERS.replace("\\\n", " ").split())


def kept_cells(scores: dict) -> list[str]:
    cells, low = scores["cells"], scores["weakest"]
    splits = ("train", "unseen", "gender", "tone", "style")
    shown = [f"{cells[split]['psnr']['mean']:.1f}, {cells[split]['right']['mean']:.3f}" for split in splits]
    return [*shown, f"{cells[low]['right']['mean']:.2f} ({low})"]


def emoji_cells(scores: dict) -> list[str]:
    codes = scores["codes"]
    used = [f"{codes['codes_used']:,}", f"{codes['codes_used_once']:,}", f"{codes['code_perplexity']:,.0f}"]
    shared = [f"{codes[f'{kind}_codes_shared']['mean']:.2f}" for kind in ("tone", "gender")]
    return [*kept_cells(scores), *used, *shared]


def test_the_page_of_renderers_has_what_they_made_of_emoji():
    found = result("renderers_emoji")
    published = table("Measured on emoji", RENDERERS)
    for name, rows in found["scores"].items():
        for how, row in rows.items():
            steps = how.removesuffix(", 1")
            how = f"{steps} step{'s' if steps != '1' else ''}" if steps.isdecimal() else how
            assert published[f"{name}, {how}"] == kept_cells(row), (name, how)
    ((pair, alike),) = found["agreement"].items()
    assert pair == "pixels, FLUX.1"
    text = " ".join(RENDERERS.replace("\\\n", " ").split())
    assert f"show in {alike['found_alike']:.3f} of the pictures the same emoji, at {alike['psnr']:.1f} dB" in text
    assert found["command"].partition(" --output")[0] in text


def test_the_page_of_emoji_has_what_tokenizers_give_back():
    published = table("Training", (ROOT / "docs" / "emoji.md").read_text())
    names = {f"16 px, {bits} bits": f"emoji_bits_{bits}" for bits in (10, 12, 14)}
    names |= {
        "16 px, 12 bits, longer": "emoji_varied",
        "8 px, 10 bits": "emoji_patch8",
        "8 px, then context": "emoji_context",
    }
    names |= {"shipped": "emoji_tokenizer", "arm-tiny's": "emoji_arm_tiny"}
    for name, file in names.items():
        assert published[name] == emoji_cells(result(file)["scores"]), name


DRAWN = {
    "trained combinations": "generation_train",
    "the same, parts in another order": "generation_reordered_train",
    "the same, tags for names": "generation_tagged_train",
    "held-out tones": "generation_tone",
    "held-out genders": "generation_gender",
    "held-out styles": "generation_style",
    "objects, trained": "generation_objects_train",
}


EDITED = {
    "edits of people, trained": "editing_train",
    "to held-out tones and genders": "editing_composed",
    "edits of objects, trained": "editing_objects_train",
}
ASKED = {
    "questions, trained": "understanding_train_{}",
    "on held-out tones and genders": "understanding_composed_{}",
    "the most frequent answer": "understanding_composed_{}_majority",
}


def test_the_page_of_emoji_has_what_arm_emoji_draws_edits_and_answers():
    scores = json.loads((ROOT / "checkpoints" / "arm-emoji" / "results" / "arm_emoji.json").read_text())["scores"]
    published, figures = table("Training", (ROOT / "docs" / "emoji.md").read_text()), scores["figures"]

    def weakest(name: str) -> str:
        return f"{figures[f'{name}_weakest']:.3f} ({scores['weakest'][name]})"

    for row, name in DRAWN.items():
        parts = (figures.get(f"{name}_{part}") for part in ("concept", "tone", "gender", "style"))
        shown = [f"{figures[name]:.3f}", *("" if part is None else f"{part:.3f}" for part in parts)]
        assert published[row] == [*shown, weakest(name)], row
    for row, name in EDITED.items():
        shown = [f"{figures[name + part]:.3f}" for part in ("", "_attribute", "_kept", "_copied")]
        assert published[row] == [*shown, weakest(name)], row
    for row, name in ASKED.items():
        assert published[row] == [f"{figures[name.format(kind)]:.3f}" for kind in ("what", "style", "tone", "gender")]


OTHER_WORDS = {
    "six tasks; the weakest": ("generation", "generation_weakest"),
    "full captions in reading, shuffled, reversed order": tuple(
        f"generation_full_{order}" for order in ("reading", "shuffled", "reversed")
    ),
    "of these with three objects": tuple(
        f"generation_full_{order}_three" for order in ("reading", "shuffled", "reversed")
    ),
    "understanding; by names that training never has": ("understanding", "understanding_new_names"),
    "the color of one of one, two and three objects": tuple(
        f"understanding_color_{number}" for number in ("one", "two", "three")
    ),
    "the place of one of one, two and three objects": tuple(
        f"understanding_location_{number}" for number in ("one", "two", "three")
    ),
}


@pytest.mark.parametrize(
    ("heading", "column", "file"),
    [
        ("arm-tiny", 0, "checkpoints/arm-tiny/results/arm_tiny"),
        ("The weights before", 0, "benchmarks/results/scores_arm_tiny"),
        ("The weights before", 1, "benchmarks/results/scores_arm_tiny_rl"),
    ],
)
def test_the_page_of_results_has_what_models_make_of_other_words(heading, column, file):
    scores = json.loads((ROOT / f"{file}.json").read_text())["scores"]
    published = table(heading, (ROOT / "docs" / "results.md").read_text())
    for row, names in OTHER_WORDS.items():
        shown = published[row][column].replace(";", ",").split(", ")
        assert shown == [f"{scores[name]:.3f}" for name in names], row


def test_the_page_of_own_pictures_has_what_each_hour_bought():
    found = result("arm_emoji_stages")
    heading = "How arm-emoji was made, and what each hour bought"
    published, spent = table(heading, (ROOT / "docs" / "own-pictures.md").read_text()), 0
    names = ("generation_train", "generation_tone", "editing_train", "editing_composed")
    names += ("understanding_composed_what", "understanding_composed_tone")
    for stage, minutes in found["minutes"].items():
        spent += minutes
        cells = [str(minutes), str(spent), *(f"{found['scores'][stage][name]:.3f}" for name in names)]
        assert published[stage] == cells, stage
    figures = json.loads((ROOT / "checkpoints" / "arm-emoji" / "results" / "arm_emoji.json").read_text())["scores"]
    assert {name: figures["figures"][name] for name in names} == {name: found["scores"][stage][name] for name in names}


def test_the_page_of_emoji_has_what_reinforcement_learning_brought():
    found = result("arm_emoji_rl")["table"]
    text = (ROOT / "docs" / "emoji.md").read_text()
    for name, words in (
        ("", "{before:.3f} drawn right before and {after:.3f} after"),
        ("_concept", "things right {before:.3f} and {after:.3f}"),
        ("_judge_right", "by the second judge {before:.3f} and {after:.3f}"),
    ):
        assert words.format(**found[f"generation_composed{name}"]) in text
