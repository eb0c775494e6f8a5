"""Pages of the site beside those in this folder: the API reference, a page a room, and files of the repository's root.

A hook of MkDocs (mkdocs.yml). Links that leave this folder lead to the site's page of the file, or to GitHub. It reads
the package and imports none of it.
"""

import ast
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transformers_arm"
REPOSITORY = "https://github.com/transformers-arm/transformers-arm"
FROM_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Code comes first, and stays as it is.
CODE_OR_RELATIVE_LINK = re.compile(r"```.*?```|`[^`\n]+`|(?<=\]\()(?!\w+:|#)(?P<link>[^)\s#]+)", re.DOTALL)


class FoldersAreModules(griffe.Extension):
    """Has griffe, which reads the docstrings, take folders without an __init__.py for modules, as Python does."""

    def on_module_members(self, *, mod: griffe.Module, **_) -> None:
        if mod.is_init_module:
            for folder in sorted(mod.filepath.parent.iterdir()):
                if any(folder.glob("*.py")) and not (folder / "__init__.py").exists():
                    mod.set_member(folder.name, griffe.Module(folder.name, filepath=[folder]))


def public_names() -> dict[str, tuple[str, str]]:
    """What `transformers_arm` offers: of each name where it is defined, as a dotted name, and what it is in a line."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^_NAMES = (\{.*?\})", source, re.DOTALL | re.MULTILINE)
    defined = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                summary = (ast.get_docstring(node) or "").partition("\n\n")[0]
                defined[node.name] = (f"{module_name(file)}.{node.name}", " ".join(summary.split()))
    return {name: defined[name] for name in ast.literal_eval(listed)}


def module_name(file: Path) -> str:
    """`src/transformers_arm/data/columns.py` -> `transformers_arm.data.columns`."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def entry(file: Path) -> str:
    """Where mkdocstrings writes a module's docstrings; a package's own alone, for the others are in its modules."""
    options = "\n    options: {members: false}" if file.name == "__init__.py" else ""
    return f"::: {module_name(file)}{options}"


def api_pages() -> dict[str, str]:
    """The API reference: places of its pages in the site, in order, and what is on them."""
    rows = [f"| [`{name}`][{place}] | {summary} |" for name, (place, summary) in public_names().items()]
    table = "\n".join(["| `transformers_arm.` | |", "|---|---|", *rows])
    pages = {"api/index.md": f"# API reference\n\n{table}"}
    rooms = [room for room in PACKAGE.iterdir() if not room.name.startswith("__") and room.suffix in (".py", "")]
    for room in sorted(rooms, key=lambda room: (room.is_dir(), room.name)):
        files = [room] if room.is_file() else sorted(room.rglob("*.py"))
        entries = [entry(file) for file in files if file.stat().st_size]
        if entries:
            pages[f"api/{room.stem}.md"] = "\n\n".join([f"# {room.stem}", *entries])
    return pages


def links_of_site(markdown: str, source: str, place: str) -> str:
    """A page with its relative links as the site needs them.

    Args:
        source: the file it comes from, from the repository's root: `docs/data.md`.
        place: of the page, from the site's root: `data.md`.
    """

    def of_site(match: re.Match) -> str:
        if match["link"] is None:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["link"]))
        on_site = FROM_ROOT.get(target, target.removeprefix("docs/"))
        if on_site == target:
            return f"{REPOSITORY}/blob/HEAD/{target}"
        return posixpath.relpath(on_site, posixpath.dirname(place) or ".")

    return CODE_OR_RELATIVE_LINK.sub(of_site, markdown)


def on_config(config):
    *others, develop = config.nav
    (pages,) = develop.values()
    pages += FROM_ROOT.values()
    config.nav = [*others, {"API reference": [*api_pages()]}, develop]
    return config


def on_files(files, config):
    generated = api_pages()
    for name, place in FROM_ROOT.items():
        generated[place] = (ROOT / name).read_text(encoding="utf-8")
    for place, content in generated.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    place = page.file.src_uri
    if place.startswith("api/"):
        return markdown
    sources = {on_site: source for source, on_site in FROM_ROOT.items()}
    return links_of_site(markdown, sources.get(place, f"docs/{place}"), place)
