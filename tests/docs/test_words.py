"""What pages say in words holds, too: links lead somewhere, and what is named is there."""

import re
from pathlib import Path

import pytest

from transformers_arm.cli import COMMANDS
from transformers_arm.training.recipe import shipped_recipes

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def words(page):
    """A page without its code blocks."""
    return BLOCK.sub("", page.read_text())


def links(page):
    """The files that a page links, and the headings there."""
    return [((page.parent / file).resolve() if file else page, anchor) for file, anchor in LINK.findall(words(page))]


def anchors(page):
    """What a page's headings are called in links, as GitHub and MkDocs do it."""
    headings = re.findall(r"^#+ (.+)$", words(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings_that_are_there(page):
    for file, anchor in links(page):
        assert file.exists(), f"{file} is missing"
        assert not anchor or anchor in anchors(file), f"{file.name} has no heading #{anchor}"


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=page_id)
def test_every_page_is_found_from_the_first(page):
    assert {each for each in DOCS if each.name != "index.md"} <= {file for file, _ in links(page)} | {page}


def test_the_readme_is_short_and_names_the_two_commands():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert {"make demo", "make test"} <= {line.partition("  ")[0].strip() for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_what_is_named_is_there(page):
    text = page.read_text()
    commands = {module.__name__.rpartition(".")[-1] for module in COMMANDS}
    assert set(re.findall(r"(?:^|`)transformers-arm ([a-z]+)", text, re.MULTILINE)) <= commands
    assert set(re.findall(r"\b(arm_(?:tiny|7b|emoji)/[a-z_]*[a-z])\b(?!\.py)", text)) <= set(shipped_recipes())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    scripts = re.findall(r"\b((?:trainers|benchmarks|examples|tests)/[\w/]+\.(?:py|yaml|json))", text)
    assert not [script for script in scripts if not (ROOT / script).is_file()]
