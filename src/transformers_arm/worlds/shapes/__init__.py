"""The embedded world of drawn shapes: scenes, pictures, and the words for both. Needs numpy and Pillow only."""

from .captions import CaptionSpec, caption_is_true, full_caption, parse_caption, sample_caption, shuffled_caption
from .draw import DEFAULT_SIDE, HARD_JITTER, HARD_SIDE, MAX_SIDE, MIN_SIDE, PICTURE_SIZES, draw_scene, render_scene
from .edits import EDIT_KINDS, Edit, apply_edit, edit_instructions, parse_instruction, sample_edit, sample_editing_pair
from .prompts import GENERATION_TASKS, PROMPT_TASKS, generation_prompts, names_held_out_pair, task_prompts
from .questions import (
    NEGATIVES,
    QUESTION_KINDS,
    Question,
    answer_question,
    parse_question,
    sample_existence_question,
    sample_question,
)
from .reader import ObjectReading, SceneReading, read_scene, reading_equals
from .references import NAMES, Noun, Reference, name_object, object_named, parse_reference
from .scene import BACKGROUNDS, CELLS, COLORS, HELD_OUT_PAIRS, SHAPES, SIZES, Scene, SceneObject, sample_scene
from .scores import EditScore, picture_is_right, scene_from_json, score_edit

__all__ = [
    "BACKGROUNDS",
    "CELLS",
    "COLORS",
    "DEFAULT_SIDE",
    "EDIT_KINDS",
    "GENERATION_TASKS",
    "HARD_JITTER",
    "HARD_SIDE",
    "HELD_OUT_PAIRS",
    "MAX_SIDE",
    "MIN_SIDE",
    "NAMES",
    "NEGATIVES",
    "PICTURE_SIZES",
    "PROMPT_TASKS",
    "QUESTION_KINDS",
    "SHAPES",
    "SIZES",
    "CaptionSpec",
    "Edit",
    "EditScore",
    "Noun",
    "ObjectReading",
    "Question",
    "Reference",
    "Scene",
    "SceneObject",
    "SceneReading",
    "answer_question",
    "apply_edit",
    "caption_is_true",
    "draw_scene",
    "edit_instructions",
    "full_caption",
    "generation_prompts",
    "name_object",
    "names_held_out_pair",
    "object_named",
    "parse_caption",
    "parse_instruction",
    "parse_question",
    "parse_reference",
    "picture_is_right",
    "read_scene",
    "reading_equals",
    "render_scene",
    "sample_caption",
    "sample_edit",
    "sample_editing_pair",
    "sample_existence_question",
    "sample_question",
    "sample_scene",
    "scene_from_json",
    "score_edit",
    "shuffled_caption",
    "task_prompts",
]
