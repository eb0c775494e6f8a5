"""What is distributed: the wheel has all that the package needs, the source distribution all its tests need."""

import email
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from transformers_arm.training.recipe import read_file, shipped_recipes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transformers_arm"
DISTRIBUTION = "transformers-arm"
REPOSITORY = "https://github.com/transformers-arm/transformers-arm"
GIT_S_OWN = {".gitattributes", ".gitignore"}
# How code speaks of a distribution, where not by its name.
SPOKEN_OF = {"flash-attn": "flash_attention", "pyyaml": "yaml", "scikit-image": "skimage"}


@pytest.fixture(scope="module")
def egg_info(tmp_path_factory):
    """What setuptools would distribute: a folder with `PKG-INFO`, the metadata, and `SOURCES.txt`, the files."""
    folder = tmp_path_factory.mktemp("egg-info")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder / "transformers_arm.egg-info"


@pytest.fixture(scope="module")
def sources(egg_info):
    """Files of the source distribution, from the root; those of `src` that are no modules are the wheel's data."""
    lines = (egg_info / "SOURCES.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if ".egg-info/" not in line}


@pytest.fixture(scope="module")
def info(egg_info):
    return email.message_from_string((egg_info / "PKG-INFO").read_text(encoding="utf-8"))


def known_to_git(*options: str) -> set[str]:
    """Files that are there of those git lists."""
    listing = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode or not listing.stdout:
        pytest.skip("not a git checkout")
    return {name for name in listing.stdout.split("\0") if (ROOT / name).is_file()}


def test_the_command_and_the_worlds_are_registered():
    entries = {(entry.group, entry.name): entry for entry in metadata.distribution(DISTRIBUTION).entry_points}
    assert entries["console_scripts", "transformers-arm"].load().__module__ == "transformers_arm.cli"
    assert entries["transformers_arm.worlds", "shapes"].load().__name__ == "ShapesWorld"
    assert entries["transformers_arm.worlds", "emoji"].load().__name__ == "EmojiWorld"


def test_every_recipe_is_found_by_its_name_and_in_the_wheel(sources):
    files = sorted((PACKAGE / "recipes").rglob("*.yaml"))
    names = [file.relative_to(PACKAGE / "recipes").with_suffix("").as_posix() for file in files]
    assert names and names == sorted(shipped_recipes())
    for name, file in zip(names, files, strict=True):
        assert read_file(name)[1] == file.read_text(encoding="utf-8")
        assert file.relative_to(ROOT).as_posix() in sources


def test_the_wheel_holds_every_file_of_the_package_and_no_other_package(sources, egg_info):
    files = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert not {file.relative_to(ROOT).as_posix() for file in files} - sources
    assert (egg_info / "top_level.txt").read_text().split() == ["transformers_arm"]


def test_the_source_distribution_holds_every_file_of_the_repository(sources):
    assert not known_to_git() - sources - GIT_S_OWN


def test_the_source_distribution_holds_nothing_else(sources):
    assert not sources - known_to_git("--cached", "--others", "--exclude-standard")


def test_an_extra_brings_only_what_the_package_speaks_of(info):
    """A name without code behind it would be a promise."""
    files = [file for file in PACKAGE.rglob("*") if file.suffix in (".py", ".yaml")]
    spoken = "\n".join(file.read_text(encoding="utf-8") for file in files if not file.match("cli/env.py"))
    for extra in set(info.get_all("Provides-Extra")) - {"dev"}:
        wanted = [Requirement(each) for each in info.get_all("Requires-Dist") if f'extra == "{extra}"' in each]
        names = {each.name for each in wanted} - {DISTRIBUTION}
        assert names or any(each.extras for each in wanted), f"{extra} brings nothing"
        for name in names:
            module = SPOKEN_OF.get(name, name.replace("-", "_"))
            assert re.search(rf"\b{module}", spoken), f"{extra} brings {name}, which nothing uses"


def test_an_index_gets_links_that_lead_somewhere(info):
    urls = dict(each.split(", ") for each in info.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Paper"}
    page = info.get_payload()
    without_code = re.sub(r"```.*?```|`[^`\n]+`", "", page, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)", without_code)
    assert page.startswith("# transformers-arm") and links
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    whole = re.compile(rf"{re.escape(REPOSITORY)}/(?:raw|blob|tree)/HEAD/([^#]+)")
    here = [match[1] for match in map(whole.match, [*links, *urls.values()]) if match]
    assert "docs" in here and not [name for name in here if not (ROOT / name).exists()]


def test_every_page_of_the_docs_is_on_the_site():
    first, *sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [page for section in sections for listed in section.values() for page in listed]
    assert sorted([first, *pages]) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
