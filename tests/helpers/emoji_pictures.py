"""A small folder of emoji as `prepare` leaves it: real code points and names, pictures that tell all traits apart."""

import io
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from transformers_arm.worlds.emoji.catalog import HAIRS, TONES, Emoji
from transformers_arm.worlds.emoji.prepare import PICTURES
from transformers_arm.worlds.emoji.splits import STYLES, chance

PERSONS = {"person": "1F9D1", "woman": "1F469", "man": "1F468"}
JOBS = {  # of which one is unseen, two have a gender held out, two a tone, and one a style
    "person gesturing OK": "1F646",
    "mechanic": "1F527",
    "judge": "2696",
    "astronaut": "1F680",
    "teacher": "1F3EB",
    "technologist": "1F4BB",
    "pilot": "2708",
    "cook": "1F373",
}
TONE_CODES = dict(zip(TONES, ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"), strict=True))


def people(job: str, code: str, hair: str | None = None):
    """A job in all genders and tones."""
    for gender, person in PERSONS.items():
        for tone in (None, *TONES):
            parts = [person + (f"-{TONE_CODES[tone]}" if tone else ""), code]
            label = job if gender == "person" else f"{gender} {job}"
            known = {"tones": (tone,) if tone else (), "gender": gender, "hair": hair}
            yield Emoji("-200D-".join(parts), label, job, "people", (job, "work"), **known)


def small_catalog() -> list[Emoji]:
    """Eight jobs, hearts, clocks, a person of all hairs, a runner who turns, and two who hold hands."""
    found = [emoji for job, code in JOBS.items() for emoji in people(job, code)]
    for number, color in enumerate(("red", "blue", "green")):
        found.append(Emoji(f"1F49{number}", f"{color} heart", f"{color} heart", "symbols", ("love",)))
    for number, label in enumerate(("three o’clock", "three-thirty", "nine o’clock")):
        found.append(Emoji(f"1F55{number}", label, label, "travel and places", ("time",)))
    for hair in (None, *HAIRS):
        label = f"person: {hair}" if hair else "person"
        found.append(Emoji(f"1F9D1-{hair}", label, "person", "people", ("adult",), hair=hair))
    for right in (False, True):
        label = "person running: facing right" if right else "person running"
        found.append(Emoji(f"1F3C3-{right}", label, "person running", "people", (), faces_right=right))
    for tones in (("light", "dark"), ("dark", "light")):
        found.append(
            Emoji("-".join(("1F46D", *tones)), "people holding hands", "people holding hands", "people", (), tones)
        )
    return found


def picture(emoji: Emoji, style: str) -> Image.Image:
    """Bars in the colors of the concept, the tones, the gender, and whatever else tells emoji apart."""
    pixels = np.full((64, 64, 3), 255, np.uint8)
    shown = (emoji.concept, *(emoji.tones or ("none",)), emoji.gender, emoji.hair, emoji.faces_right, style)
    for row, value in enumerate(shown):
        for channel in range(3):
            pixels[8 * row : 8 * row + 8, 8:56, channel] = 250 * chance(str(row), str(value), str(channel))
    return Image.fromarray(pixels)


def write_emoji(folder) -> str:
    """Writes them in all styles; fluent pilots without tones are alike in all genders, as noto's astronauts are."""
    rows = []
    for style in STYLES:
        for emoji in small_catalog():
            alike = style == "fluent" and emoji.concept == "pilot" and not emoji.tones
            content = io.BytesIO()
            picture(replace(emoji, gender="person") if alike else emoji, style).save(content, "PNG")
            rows.append({"image": {"bytes": content.getvalue(), "path": None}, "style": style, **asdict(emoji)})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / PICTURES)
    return str(folder)
