"""The world's tasks: a conversation is a function of its index, what is said and drawn is right, nothing leaks."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from transformers_arm.training.sections import TasksOfWorld
from transformers_arm.training.world_data import world_tasks
from transformers_arm.worlds.shapes.captions import caption_is_true, full_caption, parse_caption
from transformers_arm.worlds.shapes.draw import PICTURE_SIZES, render_scene
from transformers_arm.worlds.shapes.edits import apply_edit, parse_instruction
from transformers_arm.worlds.shapes.pictures import Canvas
from transformers_arm.worlds.shapes.questions import answer_question, parse_question
from transformers_arm.worlds.shapes.reader import read_scene
from transformers_arm.worlds.shapes.scene import Scene, SceneObject
from transformers_arm.worlds.shapes.tasks import DESCRIBE, STORY, TASKS, WorldTasks
from transformers_arm.worlds.shapes.text import WorldText

EVEN = {task: 1.0 for task in TASKS}
NEVER = {"text": 0.0, "image": 0.0, "both": 0.0}


def tasks(length=80, *, mixture=EVEN, batch_size=4, seed=0, **kwargs):
    kwargs = {"condition_dropout": NEVER} | kwargs
    return WorldTasks(length, mixture=mixture, batch_size=batch_size, seed=seed, **kwargs)


def only(task, length=120, **kwargs):
    return list(tasks(length, mixture={task: 1.0}, **kwargs))


def shown(image):
    """The scene a picture shows, jitter left out."""
    reading = read_scene(image)
    return Scene(tuple(SceneObject(**item.attributes()) for item in reading.objects), reading.background)


def texts(turn):
    return [part["text"] for part in turn["content"] if part["type"] == "text"]


def scenes(turn):
    return [shown(part["image"]) for part in turn["content"] if part["type"] == "image"]


def kinds(turn):
    return [part["type"] for part in turn["content"]]


def drawn(conversation):
    """The scenes of the pictures that the assistant draws."""
    return [scene for turn in conversation if turn["role"] == "assistant" for scene in scenes(turn)]


def same(ours, theirs):
    """Whether two conversations are equal, pictures pixel by pixel."""
    flat = [
        [(turn["role"], part["type"], part[part["type"]]) for turn in messages for part in turn["content"]]
        for messages in (ours, theirs)
    ]
    return len(flat[0]) == len(flat[1]) and all(
        a[:2] == b[:2] and np.array_equal(a[2], b[2]) for a, b in zip(*flat, strict=True)
    )


# --- which conversation stands where ---------------------------------------------------------------------------------


def test_a_conversation_is_a_function_of_seed_and_index():
    settings = {"condition_dropout": {"text": 0.2, "image": 0.2, "both": 0.2}}
    first, second = tasks(60, **settings), tasks(1000, **settings)
    order = random.Random(0).sample(range(60), 60)
    found = {index: first[index] for index in order}
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    assert all(same(second[index], found[index]) for index in range(60))


def test_other_seeds_are_other_conversations():
    first, second = tasks(60), tasks(60, seed=1)
    assert sum(same(first[index], second[index]) for index in range(60)) < 3


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_batch_is_of_one_task_and_tasks_are_as_frequent_as_the_mixture_says(batch_size):
    mixture = {"text": 0.1, "image_to_text": 0.2, "text_to_image": 0.4, "editing": 0.3}
    data = tasks(3000 * batch_size, mixture=mixture, batch_size=batch_size)
    of_batch = [
        {data.task(index) for index in range(start, start + batch_size)} for start in range(0, len(data), batch_size)
    ]
    assert all(len(found) == 1 for found in of_batch)
    counts = Counter(found.pop() for found in of_batch)
    assert {task: count / 3000 for task, count in counts.items()} == pytest.approx(mixture, abs=0.04)


def test_what_is_drawn_or_described_in_a_batch_holds_the_same_number_of_objects():
    for task in ("text_to_image", "interleaved", "image_to_text"):
        conversations, sizes = only(task), Counter()
        for start in range(0, 120, 4):
            batch = conversations[start : start + 4]
            if task == "image_to_text" and texts(batch[0][0]) != [DESCRIBE]:
                continue  # questions are of the same length, whatever they are about
            first = [(drawn(messages) or scenes(messages[0]))[0] for messages in batch]
            counts = {len(scene.objects) for scene in first}
            assert len(counts) == 1, task
            sizes.update(counts)
        assert set(sizes) == {1, 2, 3}


@pytest.mark.parametrize("index", [-1, 5, 100])
def test_an_index_outside_the_dataset_is_refused(index):
    data = tasks(5)
    assert len(data) == 5 and len(list(data)) == 5
    with pytest.raises(IndexError, match=f"{index} is outside this dataset of 5"):
        data[index]


def test_an_unknown_kind_of_caption_is_refused():
    with pytest.raises(ValueError, match="Unknown kind of caption long in the mixture; use full, short, any"):
        tasks(captions={"long": 1.0, "full": 1.0})


def test_an_unknown_kind_of_question_and_one_without_weight_are_refused():
    with pytest.raises(ValueError, match="Unknown kind of question why in the mixture; use color, shape, "):
        tasks(question_kinds={"why": 1.0})
    with pytest.raises(ValueError, match="has weight 0; it must be above 0"):
        tasks(question_kinds={"color": 0})


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="Unknown task drawing in the mixture; use text, image_to_text, "):
        tasks(mixture={"drawing": 1.0, "text": 1.0})


# --- what is said and drawn is right ---------------------------------------------------------------------------------


def test_texts_are_documents_of_the_world():
    documents = WorldText(120, seed=0)
    for index, messages in enumerate(only("text")):
        _, prompt, answer = documents.turn(index)
        assert [turn["role"] for turn in messages] == ["user", "assistant"]
        assert [texts(turn) for turn in messages] == [[prompt], [answer]]


def test_pictures_are_described_or_asked_about_and_all_answers_are_right():
    found, kinds_asked = Counter(), Counter()
    for messages in only("image_to_text", 400):
        (scene,) = scenes(messages[0])
        assert kinds(messages[0]) == ["image", "text"] and drawn(messages) == []
        if texts(messages[0]) == [DESCRIBE]:
            found["described"] += 1
            assert texts(messages[1]) == [full_caption(scene)] and len(messages) == 2
            continue
        found["asked"] += 1
        assert len(messages) == 6
        for asked, answered in zip(messages[::2], messages[1::2], strict=True):
            (question,), (answer,) = texts(asked), texts(answered)
            assert answer == answer_question(question, scene)
            kinds_asked[parse_question(question)[0]] += 1
        assert [kinds(turn) for turn in messages[1:]] == [["text"]] * 5
    assert found["described"] > 120 and found["asked"] > 120
    assert len(kinds_asked) == 8 and min(kinds_asked.values()) > 15


def test_the_number_of_questions_can_be_chosen():
    lengths = {len(messages) for messages in only("image_to_text", questions=1)}
    assert lengths == {2}


def test_kinds_of_questions_are_asked_as_often_as_weighted_where_a_scene_allows_them():
    asked = Counter()
    for messages in only("image_to_text", 400, described=0, question_kinds={"location": 8}):
        asked.update(parse_question(text)[0] for turn in messages[::2] for text in texts(turn))
    assert 8 / 15 - 0.1 < asked["location"] / asked.total() < 8 / 14 + 0.1  # seven others, relations not always
    assert len(asked) == 8


def test_related_captions_are_of_two_objects_in_a_relation_and_wait_for_the_curriculum():
    relations = Counter()
    for index, messages in enumerate(only("text_to_image", 240, captions={"related": 1}, curriculum=(80, 160))):
        (caption,), (scene,) = texts(messages[0]), drawn(messages)
        assert caption_is_true(caption, scene)
        relations[index // 80] += parse_caption(caption).relation is not None
        assert len(scene.objects) == (1 if index < 80 else 2)
    assert relations == {0: 0, 1: 80, 2: 80}


@pytest.mark.parametrize(
    ("captions", "full", "short"),
    [(None, 1.0, 0.0), ({"short": 1}, 0.0, 1.0), ({"full": 3, "short": 1}, 0.75, 0.25), ({"any": 1}, None, None)],
    ids=str,
)
def test_captions_are_true_of_the_pictures_and_of_the_kinds_asked_for(captions, full, short):
    found = Counter()
    for messages in only("text_to_image", 400, captions=captions):
        assert [kinds(turn) for turn in messages] == [["text"], ["image"]]
        (caption,), (scene,) = texts(messages[0]), drawn(messages)
        assert caption_is_true(caption, scene)
        spec = parse_caption(caption)
        found["full"] += spec.background is not None and all(noun.size and noun.cell for noun in spec.nouns)
        found["short"] += spec.background is None and not any(noun.size or noun.cell for noun in spec.nouns)
    shares = (found["full"] / 400, found["short"] / 400)
    if captions == {"any": 1}:
        assert 0 < shares[0] < 0.5 and 0 < shares[1] < 0.8
    else:
        assert shares == pytest.approx((full, short), abs=0.15)


def test_a_batch_has_one_kind_of_caption():
    conversations = only("text_to_image", 120, captions={"full": 1, "short": 1})
    for start in range(0, 120, 4):
        kinds_found = {" background" in texts(messages[0])[0] for messages in conversations[start : start + 4]}
        assert len(kinds_found) == 1


def test_an_edit_leads_from_the_user_s_picture_to_the_assistant_s():
    kinds_found = Counter()
    for messages in only("editing", 150):
        assert [kinds(turn) for turn in messages] == [["text", "image"], ["image"]]
        (instruction,), (source,), (target,) = texts(messages[0]), scenes(messages[0]), drawn(messages)
        assert target == apply_edit(source, instruction) != source
        kinds_found[parse_instruction(instruction)[0]] += 1
    assert len(kinds_found) == 7


def test_a_story_is_a_scene_and_two_edits_of_it():
    for messages in only("interleaved", 80):
        (request,), told = texts(messages[0]), messages[1]
        assert kinds(told) == ["image", "text", "image", "text", "image"]
        pictures, instructions = drawn(messages), texts(told)
        caption = request.removeprefix(STORY)
        assert sorted(caption) == sorted(full_caption(pictures[0])) and caption_is_true(caption, pictures[0])
        for before, instruction, after in zip(pictures, instructions, pictures[1:], strict=False):
            assert after == apply_edit(before, instruction)


def test_objects_are_jittered_on_a_canvas_that_allows_it():
    canvas = Canvas(64, 64, max_jitter=2)
    jittered = 0
    for messages in only("text_to_image", 40, canvases=[canvas]):
        image = messages[1]["content"][0]["image"]
        assert image.shape == (64, 64, 3)
        jittered += not np.array_equal(image, render_scene(shown(image), 64, 64))
    assert jittered > 30


def test_a_batch_is_of_one_size_and_sizes_are_as_frequent_as_their_weights():
    canvases = [Canvas(48, 48, weight=2), {"height": 48, "width": 96}, Canvas(96, 96)]
    shapes = Counter()
    for task in ("text_to_image", "editing", "interleaved", "image_to_text"):
        conversations = only(task, 160, canvases=canvases)
        for start in range(0, 160, 4):
            batch = [
                part["image"]
                for m in conversations[start : start + 4]
                for turn in m
                for part in turn["content"]
                if part["type"] == "image"
            ]
            (shape,) = {image.shape for image in batch}
            shapes[shape[:2]] += 1
    assert {size: count / 160 for size, count in shapes.items()} == pytest.approx(
        {(48, 48): 0.5, (48, 96): 0.25, (96, 96): 0.25}, abs=0.12
    )


def test_captions_and_stories_state_the_size_of_their_picture_as_often_as_asked():
    canvases = [Canvas(*size) for size in (*PICTURE_SIZES.values(), (64, 64))]
    for task in ("text_to_image", "interleaved"):
        stated = Counter()
        for messages in only(task, 200, canvases=canvases, stated_size=0.5):
            image = next(part["image"] for part in messages[1]["content"] if part["type"] == "image")
            caption = texts(messages[0])[0].removeprefix(STORY)
            assert caption_is_true(caption, read_scene(image))
            stated[parse_caption(caption).size, image.shape[:2]] += 1
        assert {pair for pair in stated if pair[0]} == {*PICTURE_SIZES.items()}
        assert 50 < sum(count for (size, _), count in stated.items() if size) < 110
    assert not any(parse_caption(texts(m[0])[0]).size for m in only("text_to_image", 40, canvases=canvases))


def test_drawn_captions_state_their_objects_in_random_order():
    in_order = Counter()
    for messages in only("text_to_image", 300):
        (caption,), (scene,) = texts(messages[0]), drawn(messages)
        in_order[len(scene.objects), caption == full_caption(scene)] += 1
    assert not in_order[1, False]
    assert 0.3 < in_order[2, True] / (in_order[2, True] + in_order[2, False]) < 0.7
    assert 0.05 < in_order[3, True] / (in_order[3, True] + in_order[3, False]) < 0.35


# --- what must not leak ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text_to_image", "editing", "interleaved"])
def test_what_a_model_learns_to_draw_is_of_the_train_split_without_held_out_pairs(task):
    targets = [scene for messages in only(task, 200) for scene in drawn(messages)]
    assert len(targets) >= 200
    assert not any(scene.has_held_out_pair for scene in targets)
    assert {scene.split for scene in targets} == {"train"}


def test_what_a_model_only_reads_may_hold_held_out_pairs_but_is_of_the_train_split():
    read = [scenes(messages[0])[0] for messages in only("image_to_text", 200)]
    assert any(scene.has_held_out_pair for scene in read) and {scene.split for scene in read} == {"train"}


def test_texts_are_about_the_train_split():
    for messages in only("text", 60):
        if prompt := texts(messages[0])[0].split("\n")[0]:
            spec = parse_caption(prompt)
            objects = tuple(SceneObject(noun.shape, noun.color, noun.size, noun.cell) for noun in spec.nouns)
            assert Scene(objects, spec.background).split == "train"


def test_the_test_split_is_drawn_when_asked_for():
    targets = [scene for messages in only("text_to_image", 40, split="test") for scene in drawn(messages)]
    assert {scene.split for scene in targets} == {"test"}


# --- curriculum and dropout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["image_to_text", "text_to_image", "editing", "interleaved"])
def test_the_curriculum_bounds_the_number_of_objects(task):
    most = Counter()
    for index, messages in enumerate(only(task, 240, curriculum=(80, 160))):
        stage = index // 80
        found = max(len(scene.objects) for turn in messages for scene in scenes(turn))
        most[stage] = max(most[stage], found)
    assert most == {0: 1, 1: 2, 2: 3}


def test_conditions_are_dropped_as_often_as_stated_and_only_before_single_pictures():
    dropout = {"text": 0.2, "image": 0.2, "both": 0.2}
    for task in TASKS:
        plain, dropped = only(task), only(task, condition_dropout=dropout)
        changed = [ours for ours, theirs in zip(dropped, plain, strict=True) if not same(ours, theirs)]
        if task not in ("text_to_image", "editing"):
            assert not changed
            continue
        assert all(kinds(messages[0]) in ([], ["text"], ["image"]) for messages in changed)
        share = {"text_to_image": 0.4, "editing": 0.6}[task]
        assert len(changed) / 120 == pytest.approx(share, abs=0.15)
        for ours, theirs in zip(dropped, plain, strict=True):
            assert same(ours[1:], theirs[1:])  # the answer is drawn all the same


def test_a_quarter_of_the_edits_lacks_conditions_by_default():
    left = Counter(tuple(kinds(messages[0])) for messages in only("editing", 1000, condition_dropout=None))
    expected = {("text", "image"): 0.75, ("image",): 0.1, ("text",): 0.1, (): 0.05}
    assert {parts: count / 1000 for parts, count in left.items()} == pytest.approx(expected, abs=0.04)


def test_a_run_s_conversations_are_as_many_as_its_steps_take(tmp_path):
    arguments = TrainingArguments(
        str(tmp_path), max_steps=30, per_device_train_batch_size=4, gradient_accumulation_steps=2, seed=7, use_cpu=True
    )
    own = {"mixture": {"editing": 1.0}, "curriculum": [10, 20], "questions": 2}
    data = world_tasks(TasksOfWorld(world="shapes", arguments=own), arguments)
    assert (len(data), data.batch_size, data.seed, data.questions, data.split) == (240, 4, 7, 2, "train")
    assert data.curriculum == (80, 160)
    same_settings = {"mixture": {"editing": 1.0}, "seed": 7, "curriculum": (80, 160), "condition_dropout": None}
    assert same(data[200], tasks(240, **same_settings)[200])
