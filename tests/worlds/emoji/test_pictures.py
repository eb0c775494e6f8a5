"""Pictures with their splits and twins, and samples of them; what is said where there are none."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from emoji_packages import PACKAGES

from transformers_arm.data.world import find_world
from transformers_arm.training.stages import read_stage
from transformers_arm.worlds.emoji.catalog import Emoji
from transformers_arm.worlds.emoji.pictures import EmojiDataset, counts, read_pictures
from transformers_arm.worlds.emoji.prepare import PICTURES, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emoji")
    prepare(folder, PACKAGES, styles=["fluent"], languages=["de"])
    return folder


def test_pictures_that_look_alike_are_of_one_class(folder):
    """Who wears a bearskin cap looks alike in both genders, and so does who wears mittens in two light tones."""
    twins = {}
    for each in read_pictures(folder):
        twins.setdefault(each.twins, set()).add((each.emoji.label, each.emoji.tones))
    assert sorted(sorted(alike) for alike in twins.values() if len(alike) > 1) == [
        [("guard", ("medium-light",)), ("man guard", ("medium-light",))],
        [("snowboarder", ("light",)), ("snowboarder", ("medium-light",))],
    ]


def test_a_twin_of_what_is_held_out_is_not_learnt_from(folder):
    splits = {(each.emoji.label, each.emoji.tones): each.split for each in read_pictures(folder)}
    held, twin = splits["snowboarder", ("medium-light",)], splits["snowboarder", ("light",)]
    assert held == "tone" and twin == "twin"


def test_samples_are_functions_of_seed_and_index(folder):
    first, again, other = (EmojiDataset(40, seed, folder=folder) for seed in (0, 0, 1))
    for index in (7, 3, 39):
        assert first[index]["caption"] == again[index]["caption"]
        assert np.array_equal(first[index]["image"], again[index]["image"])
    assert [each["caption"] for each in first] != [each["caption"] for each in other]
    assert first[0]["image"].shape == (64, 64, 3) and first[0]["image"].dtype == np.uint8
    with pytest.raises(IndexError, match="Sample 40 of 40"):
        first[40]


def test_samples_are_of_the_splits_and_languages_that_are_named(folder):
    (twin,) = [each for each in read_pictures(folder) if each.split == "twin"]
    only = EmojiDataset(5, 0, of=["twin"], folder=folder)
    assert all(np.array_equal(sample["image"], twin.image) for sample in only)
    said = {sample["caption"] for sample in EmojiDataset(300, 0, languages=["de"], folder=folder)}
    assert "Astronautin: dunkle Hautfarbe, fluent" in said and not any("style" in each for each in said)
    both = {sample["caption"] for sample in EmojiDataset(300, 0, languages=["en", "de"], folder=folder)}
    assert both & said and both - said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": ["tran"]}, "There is no split tran, but train, unseen, gender, tone, style, twin"),
        ({"of": []}, r"No picture of the splits \(\)"),
        ({"languages": ["fr"]}, "has a name in all of the languages fr. `python -m .*prepare"),
    ],
)
def test_what_is_not_there_is_named(folder, arguments, said):
    with pytest.raises(ValueError, match=said):
        EmojiDataset(5, 0, folder=folder, **arguments)


def test_the_table_counts_every_picture_once(folder):
    table = counts(read_pictures(folder))
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert lines[0] == ["train", "unseen", "gender", "tone", "style", "twin", "all"]
    assert lines[-1][0] == "all" and lines[-1][-1] == "31"
    for name, *numbers, total in lines[1:]:
        assert sum(map(int, numbers)) == int(total), name
    assert "29 look different; 4 have a twin." in table


# --- where there are no pictures -------------------------------------------------------------------------------------


def test_without_the_folder_the_world_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ARM_EMOJI_DATA", str(tmp_path / "nowhere"))
    world = find_world("emoji")
    with pytest.raises(FileNotFoundError, match="nowhere.*fetched, not shipped. `make emoji-data`.*ARM_EMOJI_DATA"):
        world.pictures(5, seed=0)


def test_a_recipe_is_read_and_checked_without_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ARM_EMOJI_DATA", str(tmp_path / "nowhere"))
    recipe = read_stage("backbones", "arm_emoji/backbones", ["siglip.data.arguments.of=[train]"])
    assert recipe.siglip.data.arguments == {"of": ["train"]}
    with pytest.raises(ValueError, match="siglip.data.arguments.off: there is no such field; did you mean of?"):
        read_stage("backbones", "arm_emoji/backbones", ["siglip.data.arguments.off=[train]"])


def test_a_file_of_another_version_says_what_it_lacks(folder, tmp_path):
    table = pq.read_table(folder / PICTURES)
    pq.write_table(table.drop_columns(["hair", "names"]), tmp_path / PICTURES)
    with pytest.raises(ValueError, match="has no column hair, names: another version .* `make emoji-data` writes it"):
        read_pictures(tmp_path)


def test_the_file_holds_all_that_is_known(folder):
    assert {field.name for field in dataclasses.fields(Emoji)} <= set(pq.read_table(folder / PICTURES).column_names)
