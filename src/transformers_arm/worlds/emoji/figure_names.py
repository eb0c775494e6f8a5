"""Scores of the emoji world in words, for cards."""

from .edits import KINDS
from .questions import QUESTION_KINDS
from .scores import SCORED
from .splits import HELD_OUT

OF_SPLIT = {
    "unseen": "things that the tokenizer has not seen",
    "gender": "held-out genders",
    "tone": "held-out tones",
    "style": "held-out styles",
}
OF_EDITS = {"copied": "still the source", "attribute": "what changes is right", "kept": "all else is right"}


def _of_split(split: str) -> dict[str, str]:
    of = OF_SPLIT[split]
    drawn = {f"_{name}": f", {name} right" for name in SCORED} | {"": ""}
    edited = {"": "", **{f"_{name}": f", {words}" for name, words in OF_EDITS.items()}}
    edited |= {f"_{kind}": f", {kind}" for kind in KINDS}
    answered = {"": "", **{f"_{kind}": f", {kind}" for kind in QUESTION_KINDS}}
    answered |= {f"_{kind}_majority": f", {kind}, by the commonest answer" for kind in QUESTION_KINDS}
    return {
        **{f"generation_{split}{name}": f"generation, {of}{words}" for name, words in drawn.items()},
        **{f"ceiling_{split}{name}": f"tokenizer's ceiling, {of}{words}" for name, words in drawn.items()},
        f"ceiling_{split}_psnr": f"PSNR, {of}, dB",
        **{f"editing_{split}{name}": f"editing, {of}{words}" for name, words in edited.items()},
        f"editing_ceiling_{split}": f"tokenizer's ceiling of edits, {of}",
        **{f"understanding_{split}{name}": f"understanding, {of}{words}" for name, words in answered.items()},
    }


_MEANS = {
    "generation": "generation, mean of held-out genders and tones",
    "ceiling": "tokenizer's ceiling, mean of held-out genders and tones",
    "editing": "editing, mean of held-out genders and tones",
    "editing_ceiling": "tokenizer's ceiling of edits, mean of held-out genders and tones",
    "understanding": "understanding, mean of held-out genders and tones",
    **{name: words for split in HELD_OUT for name, words in _of_split(split).items()},
    "tokenizer_tone_codes_shared": "codes that two tones share",
    "tokenizer_tone_codes_shared_unseen": "codes that two tones share, unseen things",
    "tokenizer_gender_codes_shared": "codes that two genders share",
    "tokenizer_gender_codes_shared_unseen": "codes that two genders share, unseen things",
}
FIGURE_NAMES = {
    **{
        name + bound: words + of
        for name, words in _MEANS.items()
        for bound, of in {"": "", "_low": ", low end", "_high": ", high end"}.items()
    },
    "tokenizer_codes_used": "codes in use",
    "tokenizer_codes_used_once": "codes in use once",
    "tokenizer_code_perplexity": "code perplexity",
}
