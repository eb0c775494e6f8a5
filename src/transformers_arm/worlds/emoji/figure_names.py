"""Scores of the emoji world in words, for cards."""

from .edits import KINDS
from .judge import JUDGE
from .questions import QUESTION_KINDS
from .scores import SCORED
from .splits import HELD_OUT

OF_SPLIT = {
    "train": "trained combinations",
    "unseen": "things that the tokenizer has not seen",
    "gender": "held-out genders",
    "tone": "held-out tones",
    "style": "held-out styles",
    "composed": "held-out tones and genders",
    **{
        f"objects_{split}": f"objects, {words}"
        for split, words in {
            "train": "trained ones",
            "unseen": "not seen by the tokenizer",
            "style": "held-out styles",
        }.items()
    },
}
"""`train` and held-out splits are of people and hands alone."""
DRAWN = {"": "", **{f"_{name}": f", {name} right" for name in SCORED}}
PSNR = {"_psnr": ", PSNR, dB"}
OF_EDITS = {
    "": "",
    "_attribute": ", what changes is right",
    "_kept": ", all else is right",
    "_copied": ", still the source",
}
OF_BOUNDS = {"": "", "_low": ", low end", "_high": ", high end"}


def _judged(words: dict[str, str], main: str) -> dict[str, str]:
    """Words of scores, by each judge."""
    second = {f"_{JUDGE}{name[1:] or main}": f"{told}, by the second judge" for name, told in words.items()}
    return words | {name: told for name, told in second.items() if not name.endswith("_copied")}


def _of_row(name: str, words: str, told: dict[str, str]) -> dict[str, str]:
    return {name + end: words + more for end, more in (told | {"_weakest": ", weakest cell"}).items()}


def _of_split(split: str) -> dict[str, str]:
    of, drawn = OF_SPLIT[split], _judged(DRAWN, "right")
    edited = _judged(OF_EDITS, "target") | {f"_{kind}": f", {kind}" for kind in KINDS}
    rows = _of_row(f"generation_{split}", f"generation, {of}", drawn)
    rows |= _of_row(f"editing_{split}", f"editing, {of}", edited)
    for task in ("generation", "editing"):
        rows |= _of_row(f"{task}_ceiling_{split}", f"tokenizer's ceiling of {task}, {of}", drawn | PSNR)
    for name, words in {"reordered": "parts in another order", "tagged": "tags for the name"}.items():
        rows |= _of_row(f"generation_{name}_{split}", f"generation, {of}, {words}", drawn)
    for kind in QUESTION_KINDS:
        rows |= _of_row(f"understanding_{split}_{kind}", f"understanding, {of}, {kind}", {"": ""})
    return rows


def _of_tokenizer(split: str) -> dict[str, str]:
    """On the card of a tokenizer alone: of all pictures of a split, objects too."""
    words = f"tokenizer's ceiling, {OF_SPLIT[split]}"
    return {f"ceiling_{split}{end}": words + more for end, more in (DRAWN | PSNR).items()}


_MEANS = {
    **{name: words for split in OF_SPLIT for name, words in _of_split(split).items()},
    **{name: words for split in HELD_OUT for name, words in _of_tokenizer(split).items()},
    "tokenizer_tone_codes_shared": "codes that two tones share",
    "tokenizer_tone_codes_shared_unseen": "codes that two tones share, unseen things",
    "tokenizer_gender_codes_shared": "codes that two genders share",
    "tokenizer_gender_codes_shared_unseen": "codes that two genders share, unseen things",
}
FIGURE_NAMES = {
    **{name + bound: words + of for name, words in _MEANS.items() for bound, of in OF_BOUNDS.items()},
    **{
        f"understanding_{split}_{kind}_majority": f"understanding, {of}, {kind}, by the commonest answer"
        for split, of in OF_SPLIT.items()
        for kind in QUESTION_KINDS
    },
    "tokenizer_codes_used": "codes in use",
    "tokenizer_codes_used_once": "codes in use once",
    "tokenizer_code_perplexity": "code perplexity",
    "tokenizer_code_noise": "nats of a code that its patch does not tell",
}
