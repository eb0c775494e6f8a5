"""Scores of the drawn world in words, for cards."""

from .captions import NUMBERS, ORDERS
from .draw import PICTURE_SIZES
from .edits import EDIT_KINDS
from .prompts import COMPOSITION_CELLS, GENERATION_TASKS
from .questions import NEGATIVES, QUESTION_KINDS
from .scene import MAX_OBJECTS

_NUMBERS = NUMBERS[1 : MAX_OBJECTS + 1]
_NAMES = {"plain_names": "plain names", "other_names": "other names"}
_ORDERS = {"reading": "in reading order", "shuffled": "shuffled", "reversed": "reversed"}


def _objects(number: str) -> str:
    return f"{number} object{'' if number == 'one' else 's'}"


_DRAWN = {
    "generation": "generation, mean of the six tasks",
    "generation_full": "generation, full captions of test scenes",
    "generation_composition": "generation, unseen pairs (composition)",
    "editing_exact": "editing, exact target scene",
}
_MEANS = {
    **_DRAWN,
    "editing_new_names": "editing, exact, objects named in ways that training never has",
    "understanding": "understanding, mean over question kinds",
    "understanding_question_first": "understanding, the question before its picture",
    "understanding_new_names": "understanding, objects named in ways that training never has",
    **{f"second_reader_{name}": f"by the second reader: {words}" for name, words in _DRAWN.items()},
    **{
        f"{prefix}_{name}": f"{of}: {words}"
        for prefix, of in {
            "unguided": "without guidance",
            "hard": "hard variant",
            **{word: f"{height}x{width}" for word, (height, width) in PICTURE_SIZES.items()},
        }.items()
        for name, words in {
            "generation": "the six tasks",
            "generation_full": "full captions",
            "generation_composition": "composition",
            "editing_exact": "editing, exact",
            "understanding": "understanding",
        }.items()
    },
    "size_choice": "the picture's size as the caption says, of the model's own choice",
}
_CELLS = {
    **{f"generation_{task}": f"generation: {task.replace('_', ' ')}" for task in GENERATION_TASKS},
    **{f"generation_full_{order}": f"full captions {_ORDERS[order]}" for order in ORDERS},
    **{
        f"generation_full_{order}_{number}": f"full captions {_ORDERS[order]}, {_objects(number)}"
        for order in ORDERS
        for number in _NUMBERS
    },
    **{f"generation_composition_{cell}": f"composition: {cell.replace('_', ' ')}" for cell in COMPOSITION_CELLS},
    **{f"editing_{kind}": f"editing: {kind}, exact" for kind in EDIT_KINDS},
    **{f"editing_{number}": f"editing: {_objects(number)}, exact" for number in _NUMBERS},
    **{f"editing_{names}": f"editing: {words}, exact" for names, words in _NAMES.items()},
    **{f"understanding_{kind}": f"understanding: {kind.replace('_', ' ')}" for kind in QUESTION_KINDS},
    **{
        f"understanding_{kind}_{number}": f"understanding: {kind.replace('_', ' ')}, {_objects(number)}"
        for kind in QUESTION_KINDS
        for number in _NUMBERS
    },
    **{f"understanding_{names}": f"understanding: {words}" for names, words in _NAMES.items()},
    **{f"size_choice_{word}": f"the picture's size: {word}" for word in (*PICTURE_SIZES, "unstated")},
}
FIGURE_NAMES = {
    **{
        name: words
        for mean, of in _MEANS.items()
        for name, words in {mean: of, f"{mean}_weakest": f"{of}: weakest cell"}.items()
    },
    **_CELLS,
    **{
        f"understanding_{negatives}_{name}": f"existence, {negatives} negatives: {words}"
        for negatives in NEGATIVES
        for name, words in {"accuracy": "accuracy", "f1": "F1", "yes_share": "share of yes"}.items()
    },
    "editing_sc": "editing, SC (instruction done, the rest kept), of 10",
    "editing_pq": "editing, PQ (quality), of 10",
    "editing_o": "editing, O = sqrt(SC * PQ), of 10",
    "read_back": "reconstructions read back, everything right",
    "code_noise": "nats of a code that its patch does not tell",
    "hard_read_back": "read back, hard variant (64x64, jitter)",
    "hard_psnr": "PSNR, hard variant, dB",
    "text_question": "questions about scenes told in words",
    "text_edit": "edits of scenes told in words",
    "text_paraphrase": "captions put in order",
}
