"""The figures in a card's text, as its readers see them, and whether measured numbers round to them.

A figure is a number with decimals, or in percent. What cannot be a measurement of quality is none: versions, counts
(7.6B), durations, and what papers, tables and addresses are known by. Knows how people write numbers; nothing about
cards' metadata and nothing about result files. All takes time that grows with the text.
"""

import html
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

FENCED_CODE = re.compile(r"^[ \t>]*(```|~~~).*?^[ \t>]*\1", re.MULTILINE | re.DOTALL)  # within lists and quotes too
CODE = re.compile(r"`[^`\n]*`")
# Addresses, papers, and names with a version, "apache-2.0".
NO_FIGURES = re.compile(
    r"\]\([^)\n]{0,500}\)|https?://[^\s<>|)]*|arXiv[ :]\d+\.\d+|\b10\.\d{4,9}/[^\s<>|)]+"
    r"|\b[A-Za-z]\w*-\d+(?:\.\d+)+"
)
# Tags: of cells, those within words, which leave no blank, and others.
CELL = re.compile(r"</?t[dhr]\b[^<>\n]{0,500}>", re.IGNORECASE)
INLINE = re.compile(r"</?(?:b|i|em|strong|span|u|s|sup|sub|small|mark|font|a)\b[^<>\n]{0,500}>", re.IGNORECASE)
TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,500}>")
# Emphasis, escapes, and characters without a width.
MARKS = re.compile(r"\*\*+|(?<!\d)\*|\*(?!\d)|\\(?=[!-/:-@\[-`{-~])|[\u00ad\u200b-\u200d\u2060\ufeff]")
THIN = "\u00a0\u2007\u2008\u2009\u200a\u202f"  # blanks that do not break: before percent signs, between thousands
THOUSANDS = re.compile(rf"(?<=\d)[{THIN}'\u2019](?=\d\d\d(?!\d))")
MINUS = "-\N{MINUS SIGN}\N{SMALL HYPHEN-MINUS}\N{FULLWIDTH HYPHEN-MINUS}"
RUN = re.compile(r"\.?\d[\d.,]*(?<=\d)(?:[eE][+-]?\d{1,3}(?!\d))?")
# After a name a number can be a score as well, "Qwen 71.5": only these have versions, and those of models are short.
# What goes on with a version, "3.11, 3.12 and 3.13", begins alike.
NUMBERED = (
    r"table|tab\.|figure|figs?\.|section|secs?\.|chapter|appendix|equation|eqs?\.|version|release|python|pytorch|torch"
    r"|torchvision|tensorflow|jax|transformers|diffusers|accelerate|peft|trl|huggingface_hub|numpy|pillow|deepspeed"
    r"|vllm|sglang|bitsandbytes|xformers|onnx|tensorrt|cuda|cudnn|nccl|rocm|ubuntu|debian|gcc|glibc"
)
MODELS = (
    r"qwen|llama|gemini|gemma|gpt|claude|mistral|phi|deepseek|grok|internvl|llava|flux|sana|sd|stable diffusion|imagen"
    r"|cc[ -]by(?:[ -](?:nc|sa|nd))*|apache|gpl|lgpl|mpl|licen[sc]e"
)
NO_QUALITY = re.compile(
    rf"\b(?i:(?:{NUMBERED})s?\]?[ {THIN}]{{0,3}}(?:[<>=~\N{{GREATER-THAN OR EQUAL TO}}]=? ?)?v?"
    rf"(?P<whole>\d{{1,3}})\.\d{{1,3}}"
    rf"(?:(?:,? (?:and|or|to) |, ?|[-/\N{{EN DASH}}])(?P=whole)\.\d{{1,3}}(?!\d)){{0,9}}"
    rf"|(?:{MODELS})\]?[ {THIN}]{{1,3}}v?[1-9]\.\d)(?![\d%]|[.,]\d|[ {THIN}](?:%|per ?cent))"
    # Counts and durations: 7.6B, 1.2 million, 3.5 hours; and before a model's size: 3.1 8B.
    rf"|(?<![\w.,])\d[\d.,]{{0,20}}(?:[KMBTkmbt]|[ {THIN}]?(?:[MBT]|[KMGTk]i?B|[mbtr]{{1,2}}illion|thousand)"
    rf"|[-{THIN} ]?(?:minute|(?:[CGT]PU[- ])?hour|day|week|month|year)s?"
    rf"|[ {THIN}]or (?:later|newer)|(?=[ {THIN}]\d{{1,4}}(?:\.\d)?[BM]\b))\b"
)
EXPONENT = re.compile(r"[eE][+-]?\d{1,3}$")
PERCENT = re.compile(rf"[ {THIN}]?(?:[%\N{{SMALL PERCENT SIGN}}\N{{FULLWIDTH PERCENT SIGN}}]|per ?cent\b)")
GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")  # 1,234.5
EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|0,\d+|\d+,\d\d?")  # 1.234,5 and 0,875 and 87,5
# What a common blank joins to a run of three digits: 1 234.5, which can be two numbers as well.
GROUPS_BEFORE = re.compile(r"(?<![\w.,])\d{1,3}(?: \d{3}){0,5} $")


class Figure(NamedTuple):
    """A number in a card: as it is written, what it can mean, whether in percent, and whether it stands in a table."""

    written: str
    values: tuple[Decimal, ...]
    in_percent: bool
    in_table: bool


class Measured:
    """Numbers that figures can be the roundings of."""

    def __init__(self, numbers: Iterable[Decimal]):
        self.numbers = sorted(numbers)

    def has(self, low: Decimal, high: Decimal) -> bool:
        """Whether a number lies from `low` to `high`."""
        place = bisect_left(self.numbers, low)
        return place < len(self.numbers) and self.numbers[place] <= high

    def backs(self, figure: Figure) -> bool:
        """Whether a number rounds to what a figure can mean; one in percent can be of a share, 0.99, or of 99."""
        for value in figure.values:
            half = Decimal(5).scaleb(value.as_tuple().exponent - 1)
            if self.has(value - half, value + half):
                return True
            if figure.in_percent and self.has((value - half) / 100, (value + half) / 100):
                return True
        return False


def numbers_in(value) -> Iterator[Decimal]:
    """All numbers in the content of a JSON file."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
    elif isinstance(value, int | float) and not isinstance(value, bool) and Decimal(value).is_finite():
        yield Decimal(repr(value))


def without_comments(text: str) -> str:
    """A text without HTML's comments."""
    kept, place = [], 0
    while (start := text.find("<!--", place)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[place:start])
        place = end + len("-->")
    return " ".join([*kept, text[place:]])


def seen(text: str) -> str:
    """A card's text as it is read: with what entities stand for, without code, tags, marks and what no figure is."""
    text = CODE.sub(" ", without_comments(FENCED_CODE.sub("", text)))
    text = TAG.sub(" ", INLINE.sub("", CELL.sub(" | ", text)))
    text = THOUSANDS.sub("", MARKS.sub("", html.unescape(NO_FIGURES.sub(" ", text))))
    return NO_QUALITY.sub(" ", text)


def value_of(number: str) -> Decimal | None:
    """What digits with points and commas say; None for a version, 2.13.0, and a list, 1,2,3."""
    if GROUPED.fullmatch(number):
        return Decimal(number.replace(",", ""))
    if EUROPEAN.fullmatch(number):
        return Decimal(number.replace(".", "").replace(",", "."))
    return Decimal(number) if "," not in number and number.count(".") < 2 else None


def numbers_of(run: str) -> Iterator[tuple[str, Decimal]]:
    """What stands in a run of digits, points and commas, as written and its value: a number, or those of a list
    without blanks, 0.1,0.5.
    """
    found = EXPONENT.search(run)
    digits, exponent = (run[: found.start()], int(found[0][1:])) if found else (run, 0)
    whole = value_of(digits)
    parts = [digits] if whole is not None or "," not in digits else list(filter(None, digits.split(",")))
    for part in parts:
        if (value := value_of(part)) is not None:
            yield part, value.scaleb(exponent) if part is parts[-1] else value


def is_name(line: str, start: int) -> bool:
    """Whether what begins at a place goes on with a name, as the number in Qwen2.5 and v_2.5."""
    before = line[max(0, start - 2) : start]
    return before[-1:].isalnum() or before[-1:] == "." or (before[-1:] == "_" and before[:-1].isalnum())


def is_negative(line: str, start: int) -> bool:
    """Whether a sign stands before a place: not that of a range, 0.1-0.3, nor of +-0.1."""
    before = line[max(0, start - 2) : start]
    return before[-1:] in tuple(MINUS) and not (before[:-1].isalnum() or before[:-1] in ("_", ".", "+"))


def readings(line: str, start: int, value: Decimal) -> tuple[Decimal, ...]:
    """What a number can mean that begins at a place: itself, and with what a blank may join to it."""
    whole = re.match(r"\d+", line[start : start + 4])
    before = GROUPS_BEFORE.search(line[max(0, start - 25) : start]) if whole and len(whole[0]) == 3 else None
    values = [-value if is_negative(line, start) else value]
    if before:
        joined = Decimal(before[0].replace(" ", "")).scaleb(3) + value
        first = start - len(before[0])
        values.append(-joined if is_negative(line, first) else joined)
        if whole[0].startswith("0"):  # no number begins so
            del values[0]
    return tuple(values)


def figures_in(text: str) -> Iterator[Figure]:
    """A card's figures, outside of code."""
    for line in seen(text).splitlines():
        for match in RUN.finditer(line):
            if is_name(line, match.start()):
                continue
            in_percent = PERCENT.match(line, match.end()) is not None
            numbers = list(numbers_of(match[0]))
            for index, (written, value) in enumerate(numbers):
                percent = in_percent and index == len(numbers) - 1
                has_decimals = value.as_tuple().exponent < 0 and not written.isdigit()
                if has_decimals or percent:
                    values = readings(line, match.start(), value) if index == 0 else (value,)
                    minus = "-" if values[-1] < 0 else ""
                    yield Figure(minus + written + "%" * percent, values, percent, "|" in line)
