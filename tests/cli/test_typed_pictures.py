"""What is typed in a chat: names of pictures are pictures, all else is text."""

import pytest
from PIL import Image

from transformers_arm.cli.typed_pictures import parts_of


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """Pictures, told apart by their width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    names = ("a.png", "my photo.JPG", "Käfer(1).webp", "home/b.png", "it's.png")
    for width, name in enumerate(names, 1):
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    return tmp_path


def read(typed):
    """Texts, and widths of pictures."""
    return [part["text"] if part["type"] == "text" else part["image"].width for part in parts_of(typed)]


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("a.png", [1]),
        ("a.png what is it?", [1, "what is it?"]),
        ("what is in a.png?", ["what is in", 1, "?"]),
        ("what is in (a.png), and in ./a.png!", ["what is in (", 1, "), and in", 1, "!"]),
        ('compare "my photo.JPG" with a.png', ["compare", 2, "with", 1]),
        ("compare 'my photo.JPG' with a.png", ["compare", 2, "with", 1]),
        (r"my\ photo.JPG Käfer(1).webp", [2, 3]),
        (r"K\ä.txt Käfer\(1\).webp", ["K\\ä.txt", 3]),
        ("what's ~/b.png, isn't it 'b'?", ["what's", 4, ", isn't it 'b'?"]),
        ('"it\'s.png"', [5]),
        ("  no picture  here ", ["  no picture  here "]),
        ("a.png.txt, a_png and a.pngs are text", ["a.png.txt, a_png and a.pngs are text"]),
        ('say "hello" and "bye"', ['say "hello" and "bye"']),
        ("what is it's.png like", ["what is", 5, "like"]),
        ("it's a.png, isn't it", ["it's", 1, ", isn't it"]),
        ("x" * 100_000, ["x" * 100_000]),
        ('"' * 10_000 + " a.png", ['"' * 10_000, 1]),
    ],
)
def test_names_of_pictures_are_pictures(typed, parts):
    assert read(typed) == parts


def test_an_absolute_path_is_one(pictures):
    assert read(f"look: {pictures}/a.png") == ["look:", 1]


def test_what_is_no_picture_is_named(pictures):
    with pytest.raises(FileNotFoundError, match=r"no.png; a name with spaces stands in quotes, and /text before"):
        parts_of("what is in no.png?")
    (pictures / "text.png").write_text("no picture")
    with pytest.raises(OSError, match=r"text\.png"):
        parts_of("text.png")
    (pictures / "folder.png").mkdir()
    with pytest.raises((OSError, ValueError), match=r"folder\.png"):
        parts_of("folder.png")
