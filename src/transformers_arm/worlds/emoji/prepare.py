"""Fetches emoji of three styles and their names, and makes pictures with names of them: `make emoji-data`.

    python -m transformers_arm.worlds.emoji.prepare runs/emoji/data

npm fetches the packages, resvg draws their SVG files at 64x64 px on white, and `pictures.parquet` holds what comes of
it: one row a picture, with what `catalog.Emoji` knows. `report.json` counts what could not be used, by reason, and
`NOTICE` says whose work the pictures are. Nothing half-written is left.
"""

import argparse
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from ...extras import require
from ...whole_files import whole_file, write_whole
from .catalog import Emoji, plain_hexcode, read_catalog

SIDE = 64  # px of a picture


class Style(NamedTuple):
    """Where the pictures of a style come from, and whose they are."""

    package: str
    version: str
    license: str
    owner: str


STYLES = {
    "noto": Style("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, (c) Google Inc"),
    "twemoji": Style(
        "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, (c) Twitter, Inc and other contributors"
    ),
    "fluent": Style("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, (c) Microsoft Corporation"),
}
NAMES = Style("emojibase-data", "17.0.0", "MIT", "emojibase, (c) Miles Johnson")
PICTURES, REPORT, NOTICE = "pictures.parquet", "report.json", "NOTICE"


def fetch(package: Style, folder: Path) -> Path:
    """A package of npm, unpacked in `folder` unless it lies there: its folder.

    Raises:
        RuntimeError: there is no npm, or it cannot get the package; says which.
    """
    name = f"{package.package.lstrip('@').replace('/', '-')}-{package.version}"
    unpacked = folder / name
    if not unpacked.exists():
        _download(package, folder)
        with tempfile.TemporaryDirectory(dir=folder) as aside, tarfile.open(folder / f"{name}.tgz") as archive:
            archive.extractall(aside, filter="data")
            (Path(aside) / "package").rename(unpacked)
    return unpacked


def _download(package: Style, folder: Path) -> None:
    wanted = f"{package.package}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"{wanted} comes by npm, which is not installed; install Node.js.")
    folder.mkdir(parents=True, exist_ok=True)
    got = subprocess.run([npm, "pack", wanted], cwd=folder, capture_output=True, text=True, check=False)
    if got.returncode:
        raise RuntimeError(f"npm cannot get {wanted}: {got.stderr.strip()[-500:]}")


def drawn(body: str, size: tuple[int, int]) -> Image.Image:
    """The body of an SVG of `size` (width, height) in its own units -> a picture, RGB, on white.

    Raises:
        ValueError: it does not render.
    """
    require("Drawing emoji", "emoji", "resvg_py")
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
    """The drawings of a package of icons, by code points."""

    def __init__(self, folder: Path):
        found = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.icons, self.aliases = found["icons"], found.get("aliases", {})
        self.size = found.get("width", 16), found.get("height", 16)
        chars = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
        self.names = {plain_hexcode(code): name for code, name in chars.items()}

    def draw(self, hexcode: str) -> Image.Image:
        """Raises ValueError where it does not render, KeyError where it is not there."""
        name, mirrored = self.names[hexcode], False
        while name in self.aliases:
            mirrored ^= self.aliases[name].get("hFlip", False)
            name = self.aliases[name]["parent"]
        icon = self.icons[name]
        picture = drawn(icon["body"], (icon.get("width", self.size[0]), icon.get("height", self.size[1])))
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


def pictures_of(emojis: Mapping[str, Emoji], style: str, icons: Icons, skipped: Counter) -> Iterator[dict[str, Any]]:
    """The rows of a style; counts in `skipped`, by reason, what cannot be used."""
    for hexcode in tqdm(icons.names, desc=style, unit=" pictures"):
        if hexcode not in emojis:
            skipped["no name is known"] += 1
            continue
        try:
            picture = icons.draw(hexcode)
        except (KeyError, ValueError, OSError) as error:
            skipped[f"{style} {hexcode} cannot be drawn: {error}"] += 1
            continue
        content = io.BytesIO()
        picture.save(content, "PNG")
        yield {"image": {"bytes": content.getvalue(), "path": None}, "style": style, **asdict(emojis[hexcode])}


def notice() -> str:
    """Whose work the pictures and names are."""
    lines = [f"{each.owner}: {each.package} {each.version}, {each.license}" for each in (*STYLES.values(), NAMES)]
    return (
        "The pictures and names in this folder are the work of others, drawn at 64x64 px.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def prepare(output: Path, packages: Path) -> dict:
    """Writes pictures and names to the folder `output`; `packages` keeps what was fetched.

    Returns:
        What `report.json` holds: pictures a style, and how many were skipped for what.

    Raises:
        RuntimeError: as `fetch`.
        MissingExtra: resvg is not installed.
    """
    require("Drawing emoji", "emoji", "resvg_py")
    entries = json.loads((fetch(NAMES, packages) / "en" / "data.json").read_text(encoding="utf-8"))
    emojis, rows, skipped = {emoji.hexcode: emoji for emoji in read_catalog(entries)}, [], {}
    for style, package in STYLES.items():
        skipped[style] = Counter()
        rows += pictures_of(emojis, style, Icons(fetch(package, packages)), skipped[style])
    report = {"pictures": dict(Counter(row["style"] for row in rows)), "skipped": skipped}
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / NOTICE, notice())
    write_whole(output / REPORT, json.dumps(report, indent=2) + "\n")
    with whole_file(output / PICTURES) as aside:
        pq.write_table(pa.Table.from_pylist(rows), aside)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--packages", type=Path, default=Path("runs/emoji/packages"), help="keeps what npm fetched")
    options = parser.parse_args()
    print(json.dumps(prepare(options.output, options.packages), indent=2))
