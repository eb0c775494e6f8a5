"""Scores of the drawn world in words, for cards."""

from .edits import EDIT_KINDS
from .prompts import GENERATION_TASKS
from .questions import NEGATIVES, QUESTION_KINDS

FIGURE_NAMES = {
    "understanding": "understanding, mean over question kinds",
    **{f"understanding_{kind}": f"understanding: {kind.replace('_', ' ')}" for kind in QUESTION_KINDS},
    "understanding_question_first": "understanding, the question before its picture",
    **{
        f"understanding_{negatives}_{name}": f"existence, {negatives} negatives: {words}"
        for negatives in NEGATIVES
        for name, words in {"accuracy": "accuracy", "f1": "F1", "yes_share": "share of yes"}.items()
    },
    "generation": "generation, mean of the six tasks",
    **{f"generation_{task}": f"generation: {task.replace('_', ' ')}" for task in GENERATION_TASKS},
    "generation_full": "generation, full captions of test scenes",
    "generation_composition": "generation, unseen pairs (composition)",
    "editing_exact": "editing, exact target scene",
    **{f"editing_{kind}": f"editing: {kind}, exact" for kind in EDIT_KINDS},
    "editing_sc": "editing, SC (instruction done, the rest kept), of 10",
    "editing_pq": "editing, PQ (quality), of 10",
    "editing_o": "editing, O = sqrt(SC * PQ), of 10",
    "unguided_generation": "without guidance: the six tasks",
    "unguided_generation_full": "without guidance: full captions",
    "unguided_generation_composition": "without guidance: composition",
    "unguided_editing_exact": "without guidance: editing, exact",
    "hard_understanding": "hard variant: understanding",
    "hard_generation": "hard variant: the six tasks",
    "hard_generation_full": "hard variant: full captions",
    "hard_generation_composition": "hard variant: composition",
    "hard_editing_exact": "hard variant: editing, exact",
    "read_back": "reconstructions read back, everything right",
    "hard_read_back": "read back, hard variant (64x64, jitter)",
    "hard_psnr": "PSNR, hard variant, dB",
    "text_question": "questions about scenes told in words",
    "text_edit": "edits of scenes told in words",
    "text_paraphrase": "captions put in order",
}
