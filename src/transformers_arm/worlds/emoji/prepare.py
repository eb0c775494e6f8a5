"""Fetches emoji of three styles and their names, and makes pictures with names of them: `make emoji-data`.

    python -m transformers_arm.worlds.emoji.prepare runs/emoji/data

npm fetches the packages, resvg draws their SVG files at 64x64 px on white, and `pictures.parquet` holds what comes of
it: one row a picture, with what `catalog.Emoji` knows. `report.json` names what could not be used, by reason, and
`NOTICE` says whose work the pictures are. Nothing half-written is left, and what is there of the packages is not
fetched again.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from ...extras import MissingExtra, require
from ...whole_files import whole_file, write_whole
from .catalog import Emoji, plain_hexcode, read_catalog
from .splits import STYLES

SIDE = 64  # px of a picture


class Package(NamedTuple):
    """A package of npm, and whose work it holds."""

    package: str
    version: str
    license: str
    owner: str

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked to."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}"


CC_BY = "CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)"
PACKAGES = {
    "noto": Package("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, (c) Google Inc"),
    "twemoji": Package("@iconify-json/twemoji", "1.2.5", CC_BY, "Twemoji, (c) Twitter, Inc and other contributors"),
    "fluent": Package("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, (c) Microsoft Corporation"),
}
NAMES = Package("emojibase-data", "17.0.0", "MIT", "emojibase, (c) Miles Johnson")
PICTURES, REPORT, NOTICE = "pictures.parquet", "report.json", "NOTICE"
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        **dict.fromkeys(("style", "hexcode", "label", "concept", "group"), pa.string()),
        **dict.fromkeys(("tags", "tones"), pa.list_(pa.string())),
        **dict.fromkeys(("gender", "hair"), pa.string()),
        "faces_right": pa.bool_(),
        "names": pa.list_(pa.list_(pa.string(), 2)),
    }
)
"""Of `pictures.parquet`: `datasets` reads `image` as pictures."""


def fetch(package: Package, folder: Path) -> Path:
    """A package of npm, unpacked in `folder` unless it lies there: its folder, which appears whole.

    Raises:
        RuntimeError: there is no npm, or it cannot get the package; says which.
    """
    unpacked = folder / package.folder
    if unpacked.exists():
        return unpacked
    wanted, npm = f"{package.package}@{package.version}", shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"{wanted} comes by npm, which is not installed. Install Node.js, or unpack it to {unpacked}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as aside:
        command = [npm, "pack", wanted, "--loglevel=error"]
        got = subprocess.run(command, cwd=aside, capture_output=True, text=True, check=False)
        if got.returncode:
            raise RuntimeError(f"npm cannot get {wanted}: {' '.join(got.stderr.split())[:500]}")
        (archive,) = Path(aside).glob("*.tgz")
        with tarfile.open(archive) as files:
            files.extractall(aside, filter="data")
        (Path(aside) / "package").rename(unpacked)
    return unpacked


def drawn(body: str, size: tuple[int, int]) -> Image.Image:
    """The body of an SVG of `size` (width, height) in its own units -> a picture, RGB, on white.

    Raises:
        ValueError: it does not render.
    """
    import resvg_py

    width, height = size
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} '
    svg += f'{height}" width="{SIDE}" height="{SIDE}">{body}</svg>'
    content = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if not any(low < high for low, high in picture.getextrema()):
        raise ValueError("nothing is to be seen")
    return picture


class Icons:
    """The drawings of a package of icons, by code points.

    Attributes:
        names: of icons by code points, as `plain_hexcode` gives them.
    """

    def __init__(self, folder: Path):
        found = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.icons, self.aliases = found["icons"], found.get("aliases", {})
        self.size = found.get("width", 16), found.get("height", 16)
        chars = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
        self.names = {plain_hexcode(code): name for code, name in chars.items()}

    def without_code_points(self) -> Iterator[tuple[str, str]]:
        """Icons that no code points lead to: the reason, and the name. Their makers hide those they withdrew."""
        for name in sorted(self.icons.keys() - {self._origin(name)[0] for name in self.names.values()}):
            yield "it is hidden" if self.icons[name].get("hidden") else "it has no code points", name

    def draw(self, hexcode: str) -> Image.Image:
        """Raises ValueError where it does not render or is not there."""
        name, mirrored = self._origin(self.names[hexcode])
        if name not in self.icons:
            raise ValueError(f"there is no icon {name}")
        icon = self.icons[name]
        picture = drawn(icon.get("body", ""), (icon.get("width", self.size[0]), icon.get("height", self.size[1])))
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture

    def _origin(self, name: str) -> tuple[str, bool]:
        """The icon that a name leads to, through aliases, and whether it is to be mirrored."""
        mirrored, left = False, dict(self.aliases)
        while name in left and name not in self.icons:  # what leads in a circle ends where it began, at no icon
            alias = left.pop(name)
            mirrored ^= alias.get("hFlip", False)
            name = str(alias.get("parent"))
        return name, mirrored


def pictures_of(emojis: Mapping[str, Emoji], style: str, icons: Icons, skipped: dict) -> Iterator[dict[str, Any]]:
    """The rows of a style; what cannot be used goes to `skipped`, lists of names by reason."""
    for reason, name in icons.without_code_points():
        skipped[reason].append(name)
    for hexcode, name in tqdm(icons.names.items(), desc=style, unit=" pictures", disable=None):  # None: off a terminal
        if hexcode not in emojis:
            skipped["no name is known"].append(f"{name} ({hexcode})")
            continue
        content = io.BytesIO()
        try:
            icons.draw(hexcode).save(content, "PNG")
        except (ValueError, OSError) as error:
            skipped[f"it does not render: {error}"].append(f"{name} ({hexcode})")
            continue
        yield {"image": {"bytes": content.getvalue(), "path": None}, "style": style, **asdict(emojis[hexcode])}


def notice(styles: Sequence[str] = STYLES) -> str:
    """Whose work the pictures of styles and their names are, as their licences want it said of them and of whatever is
    made of them: a folder, a model's card.
    """
    lines = [
        f"- {each.owner}: {each.package} {each.version}, {each.license}"
        for each in (*(PACKAGES[style] for style in styles), NAMES)
    ]
    return "The pictures and names are the work of others, drawn at 64x64 px:\n\n" + "\n".join(lines) + "\n"


def named(packages: Path, languages: Sequence[str]) -> tuple[dict[str, Emoji], dict[str, list[str]]]:
    """All emojis by code points, with names in `languages` beside English; and what has no name in one of those.

    Raises:
        ValueError: emojibase has no such language; names those that it has.
    """
    folder = fetch(NAMES, packages)
    entries = {}
    for language in ("en", *languages):
        file = folder / language / "data.json"
        if not file.exists():
            known = sorted(each.parent.name for each in folder.glob("*/data.json"))
            raise ValueError(f"{folder} has no names in {language!r}; it has {', '.join(known)}.")
        entries[language] = json.loads(file.read_text(encoding="utf-8"))
    emojis = read_catalog(entries.pop("en"), entries)
    unnamed = {
        language: [emoji.label for emoji in emojis if language not in dict(emoji.names)] for language in languages
    }
    return {emoji.hexcode: emoji for emoji in emojis}, unnamed


def prepare(
    output: Path, packages: Path, *, styles: Sequence[str] = STYLES, languages: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes pictures and names to the folder `output`; `packages` keeps what was fetched.

    Returns:
        What `report.json` holds: `pictures`, how many of a style; `skipped`, which icons of a style were not used, by
        reason; `unnamed`, which emojis have no name in a language.

    Raises:
        RuntimeError: as `fetch`.
        ValueError: as `named`; or no picture is left.
        MissingExtra: resvg is not installed.
    """
    require("Drawing emoji", "emoji", "resvg_py")
    emojis, unnamed = named(packages, languages)
    rows, skipped = [], {}
    for style in styles:
        skipped[style] = defaultdict(list)
        rows += pictures_of(emojis, style, Icons(fetch(PACKAGES[style], packages)), skipped[style])
    if not rows:
        raise ValueError(f"No icon of {', '.join(styles)} could be used: {json.dumps(skipped)[:500]}")
    pictures = Counter(row["style"] for row in rows)
    report = {"pictures": dict(pictures), "skipped": skipped, "unnamed": unnamed}
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / NOTICE, notice(styles))
    write_whole(output / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    with whole_file(output / PICTURES) as aside:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), aside)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--packages", type=Path, default=Path("runs/emoji/packages"), help="keeps what npm fetched")
    parser.add_argument(
        "--styles", nargs="+", choices=STYLES, default=STYLES, help="which are drawn; all, unless some are named"
    )
    parser.add_argument("--languages", nargs="+", default=(), help="of names beside English, such as de fr")
    options = parser.parse_args()
    try:
        report = prepare(options.output, options.packages, styles=options.styles, languages=options.languages)
    except (RuntimeError, ValueError, OSError, MissingExtra) as error:
        sys.exit(f"prepare: {error}")
    for style, count in report["pictures"].items():
        print(f"{style}: {count:,} pictures")
    for what, reasons in {**report["skipped"], "names": report["unnamed"]}.items():
        for reason, names in reasons.items():
            if names:
                print(f"{what}: {len(names)} left out, {reason}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}")
    print(f"{options.output / REPORT} names all that was left out.")


if __name__ == "__main__":
    main()
