"""From packages to pictures with names: all is drawn or named in the report, and nothing is left half-way."""

import json
import sys

import datasets
import numpy as np
import pytest
from emoji_packages import FLUENT, NAMES, PACKAGES, change, own_packages

from transformers_arm.worlds.emoji import prepare as preparing
from transformers_arm.worlds.emoji.pictures import read_pictures
from transformers_arm.worlds.emoji.prepare import Icons, drawn, notice, prepare

SQUARE = '<path fill="red" d="M0 0h{0}v32h-{0}z"/>'.format


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What comes of the packages, with German names."""
    folder = tmp_path_factory.mktemp("emoji")
    prepare(folder, PACKAGES, styles=["fluent"], languages=["de"])
    return folder


# --- what comes of whole packages ------------------------------------------------------------------------------------


def test_every_icon_becomes_a_picture_with_a_name(folder):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report == {"pictures": {"fluent": 31}, "skipped": {"fluent": {}}, "unnamed": {"de": []}}
    pictures = {each.emoji.label: each for each in read_pictures(folder)}
    assert {"piñata", "Japanese “here” button", "keycap: #", "man walking: facing right"} <= pictures.keys()
    assert dict(pictures["axe"].emoji.names) == {"de": "Axt"}
    assert pictures["red heart"].image.shape == (64, 64, 3) and (pictures["red heart"].image[0, 0] == 255).all()
    red, _, blue = pictures["red heart"].image[32, 32]
    assert red > 200 > 100 > blue


def test_datasets_reads_the_file_as_pictures(folder):
    rows = datasets.load_dataset("parquet", data_files=str(folder / "pictures.parquet"), split="train")
    rows = rows.cast_column("image", datasets.Image())
    assert rows[0]["image"].size == (64, 64) and set(rows["style"]) == {"fluent"}
    dark = [row for row in rows if row["label"] == "woman astronaut" and row["tones"] == ["dark"]]
    assert len(dark) == 1 and dark[0]["concept"] == "astronaut" and dark[0]["gender"] == "woman"


def test_the_notice_names_those_whose_work_is_there_and_no_other(folder):
    said = (folder / "NOTICE").read_text(encoding="utf-8")
    assert "Microsoft" in said and "Miles Johnson" in said and "MIT" in said
    assert "Twitter" not in said and "Google" not in said
    assert "creativecommons.org/licenses/by/4.0" in notice() and "Twitter" in notice()


def test_the_command_says_what_it_made_and_what_not_and_shows_no_bars_to_a_file(tmp_path, monkeypatch, capsys):
    packages = own_packages(tmp_path)
    change(packages / FLUENT / "icons.json", icons={"axe": {"body": "<g"}})
    command = ["prepare", str(tmp_path / "data"), "--packages", str(packages), "--styles", "fluent"]
    monkeypatch.setattr(sys, "argv", command)
    preparing.main()
    said = capsys.readouterr()
    assert "fluent: 30 pictures" in said.out and "fluent: 1 left out, it does not render" in said.out
    assert "axe (1FA93)" in said.out and "report.json" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["--languages", "xx"], "has no names in 'xx'; it has de, en"),
        (["--styles", "noto"], "npm, which is not installed"),
    ],
)
def test_the_command_ends_with_what_is_wrong_in_a_line(settings, told, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["prepare", str(tmp_path / "data"), "--packages", str(own_packages(tmp_path)), *settings]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=f"^prepare: .*{told}"):
        preparing.main()
    assert not (tmp_path / "data").exists()


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "reason", "name"),
    [
        ("icons.json", {"icons": {"axe": {"body": "<path d="}}}, "does not render: expected", "axe (1FA93)"),
        ("icons.json", {"icons": {"axe": {"body": "<g/>"}}}, "does not render: nothing is to be seen", "axe (1FA93)"),
        ("icons.json", {"icons": {"axe": {}}}, "does not render: nothing is to be seen", "axe (1FA93)"),
        ("icons.json", {"icons": {"axe": None}}, "does not render: there is no icon axe", "axe (1FA93)"),
        (
            *("icons.json", {"icons": {"axe": None}, "aliases": {"axe": {"parent": "ax"}, "ax": {"parent": "axe"}}}),
            *("does not render: there is no icon ax", "axe (1FA93)"),
        ),
        ("icons.json", {"icons": {"spare": {"body": "<g/>"}}}, "it has no code points", "spare"),
        ("icons.json", {"icons": {"spare": {"body": "<g/>", "hidden": True}}}, "it is hidden", "spare"),
    ],
)
def test_an_icon_that_cannot_be_used_is_named_and_the_others_are_drawn(tmp_path, file, changes, reason, name):
    packages = own_packages(tmp_path)
    change(packages / FLUENT / file, **changes)
    report = prepare(tmp_path / "data", packages, styles=["fluent"])
    ((found, names),) = report["skipped"]["fluent"].items()
    assert reason in found and names == [name]
    icons = Icons(packages / FLUENT)
    assert report["pictures"]["fluent"] + len(names) == len(icons.names.keys()) + ("spare" in icons.icons)
    assert len(read_pictures(tmp_path / "data")) == report["pictures"]["fluent"]


def test_an_emoji_without_a_name_is_named_by_its_code_points(tmp_path):
    packages = own_packages(tmp_path)
    file = packages / FLUENT / "chars.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "1FFFF": "axe"}), encoding="utf-8")
    report = prepare(tmp_path / "data", packages, styles=["fluent"])
    assert report["skipped"]["fluent"] == {"no name is known": ["axe (1FFFF)"]}
    assert report["pictures"]["fluent"] == 31


def test_names_that_a_language_lacks_are_counted_and_a_language_that_is_not_there_is_refused(tmp_path):
    packages = own_packages(tmp_path)
    file = packages / NAMES / "de" / "data.json"
    kept = [each for each in json.loads(file.read_text(encoding="utf-8")) if each["hexcode"] != "1FA93"]
    file.write_text(json.dumps(kept), encoding="utf-8")
    report = prepare(tmp_path / "data", packages, styles=["fluent"], languages=["de"])
    assert report["unnamed"] == {"de": ["axe"]} and report["pictures"]["fluent"] == 31
    with pytest.raises(ValueError, match="no names in 'tlh'; it has de, en"):
        prepare(tmp_path / "other", packages, styles=["fluent"], languages=["tlh"])
    assert not (tmp_path / "other").exists()


def test_a_folder_without_a_single_picture_is_not_written(tmp_path):
    packages = own_packages(tmp_path)
    (packages / FLUENT / "chars.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="No icon of fluent could be used: .*no code points"):
        prepare(tmp_path / "data", packages, styles=["fluent"])
    assert not (tmp_path / "data").exists()


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_aliases_lead_on_and_mirror(tmp_path):
    packages = own_packages(tmp_path)
    change(
        packages / FLUENT / "icons.json",
        icons={"axe": None, "half": {"body": SQUARE(16)}},
        aliases={"axe": {"parent": "ax", "hFlip": True}, "ax": {"parent": "half"}},
    )
    icons = Icons(packages / FLUENT)
    image = np.asarray(icons.draw("1FA93"))
    assert (image[:, :31] == 255).all() and (image[:, 33:] == (255, 0, 0)).all()
    assert not list(icons.without_code_points())


@pytest.mark.parametrize("size", [(64, 32), (16, 48)])
def test_a_drawing_of_another_shape_lies_whole_in_the_middle_of_a_square(size):
    width, height = size
    image = np.asarray(drawn(f'<path fill="red" d="M0 0h{width}v{height}h-{width}z"/>', size))
    assert image.shape == (64, 64, 3)
    rows, columns = np.nonzero((image == (255, 0, 0)).all(2))
    side = max(size)
    assert np.ptp(rows) + 1 == pytest.approx(64 * height / side, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(64 * width / side, abs=2)
    assert rows.mean() == pytest.approx(31.5, abs=1) and columns.mean() == pytest.approx(31.5, abs=1)


def test_pictures_are_saved_as_they_were_drawn(folder):
    (axe,) = [each for each in read_pictures(folder) if each.emoji.label == "axe"]
    assert axe.image.tobytes() == Icons(PACKAGES / FLUENT).draw("1FA93").tobytes()
