"""What a mixture is made of is known in another process, and what changed is named; so is where its streams are."""

import copy
import json
import os
import shutil
import subprocess
import sys
from itertools import combinations, islice

import pytest
from datasets import Dataset, load_dataset
from mixture_sources import drawn, texts, write_tar
from stream_steps import made_of_steps

from transformers_arm import ArmProcessor
from transformers_arm.data.collators import ImageTextCollator
from transformers_arm.data.fingerprints import of_processing
from transformers_arm.data.image_text import ImageTextMixture
from transformers_arm.data.mixture import Mixture, Source
from transformers_arm.data.streams import StreamState
from transformers_arm.image_processing_arm import ArmImageProcessor


@pytest.fixture
def folder(tmp_path):
    """Two parquet files, and a tar."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        drawn(6, 6 * number).to_parquet(folder / f"{number}.parquet")
    write_tar(folder / "0.tar", 6)
    return folder


def sources(folder, **changed):
    """Sections of a source of each kind; `changed` is of the streamed one."""
    files = [str(folder / f"{number}.parquet") for number in range(2)]
    cache = {"cache_dir": str(folder.parent / "cache")}
    streamed = {"dataset": {"path": "parquet", "data_files": files, "streaming": True}, "shuffle_buffer": 4}
    tars = {"path": "webdataset", "data_files": str(folder / "0.tar"), **cache}
    world = {"world": "shapes", "arguments": {"mixture": {"text_to_image": 1.0}}}
    return {
        "streamed": {**streamed, **changed},
        "indexed": {"dataset": {"path": "parquet", "data_files": files, **cache}},
        "tars": {"dataset": tars, "rename": {"png": "image", "txt": "prompt"}},
        "world": world,
    }


def made(sections, seed=0, *, size=32, collator=None):
    mixture = Mixture.from_recipe(sections, seed=seed, streams=2)
    processor = ArmImageProcessor(size={"height": size, "width": size})
    return ImageTextMixture(mixture, processor, collator or ImageTextCollator(), pixel_budget=2048, lookahead=4)


def begun(sections):
    """What a checkpoint says of a training on a mixture."""
    data = made(sections)
    for batch in islice(data.loader(), 4):
        data.consume(batch)
    return json.loads(json.dumps(data.state_dict()))


def test_it_is_the_same_in_another_process_and_for_a_folder_that_was_moved(folder, tmp_path):
    script = (
        "import json, sys; from transformers_arm.data.mixture import Mixture\n"
        "print(json.dumps(Mixture.from_recipe(json.loads(sys.argv[1]), seed=0, streams=2).made_of))"
    )
    here = json.loads(json.dumps(Mixture.from_recipe(sources(folder), seed=0, streams=2).made_of))
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "data")
    command = [sys.executable, "-c", script, json.dumps(sources(moved))]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "1"}
    )
    assert json.loads(said.stdout.splitlines()[-1]) == here


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"weight": 2.0}, "weight was 1.0, is 2.0"),
        ({"shuffle": False}, "shuffle was True, is False"),
        ({"shuffle_buffer": 5}, "shuffle_buffer was 4, is 5"),
        ({"rename": {"prompt": "answer"}}, "rename were 0, are 1"),
        ({"fill": {"task": "text_to_image"}}, "fill.task was None, is 'text_to_image'"),
        ({"condition_dropout": {"text": 0.5}}, "condition_dropout was None, is .'text': 0.5."),
        ({"local_files": True}, "local_files was False, is True"),
    ],
)
def test_changed_settings_of_a_source_are_named(folder, changed, named):
    state = begun(sources(folder))
    with pytest.raises(ValueError, match=f"had other data: sources.streamed.{named}. State the same, or start a new"):
        made(sources(folder, **changed)).load_state_dict(state)


def reversed_files(folder):
    (folder / "0.parquet").rename(folder / "2.parquet")
    (folder / "1.parquet").rename(folder / "0.parquet")
    (folder / "2.parquet").rename(folder / "1.parquet")


def another_row(folder):
    drawn(6, 1).to_parquet(folder / "0.parquet")


def more_rows(folder):
    drawn(7, 0).to_parquet(folder / "0.parquet")


@pytest.mark.parametrize("change", [reversed_files, another_row, more_rows])
def test_changed_files_are_named(folder, change):
    state = begun(sources(folder))
    change(folder)
    with pytest.raises(ValueError) as raised:
        made(sources(folder)).load_state_dict(state)
    assert "sources.streamed.files[0] was ['0.parquet', " in str(raised.value)
    assert "sources.indexed.digest was " in str(raised.value)
    assert ("sources.indexed.rows was 12, is 13" in str(raised.value)) == (change is more_rows)
    assert "sources.tars" not in str(raised.value)


def test_a_changed_tar_and_the_arguments_of_a_world_are_named(folder):
    state, sections = begun(sources(folder)), sources(folder)
    write_tar(folder / "0.tar", 6, first=3)
    sections["world"]["arguments"] = {"mixture": {"text_to_image": 1.0}, "seed": 5}
    with pytest.raises(ValueError, match=r"sources.tars.digest was .*; sources.world.arguments.seed was 0, is 5\."):
        made(sections).load_state_dict(state)


def test_files_in_another_order_and_a_file_less_are_named(folder):
    state, sections = begun(sources(folder)), sources(folder)
    files = sections["streamed"]["dataset"]["data_files"]
    sections["streamed"]["dataset"]["data_files"] = files[::-1]
    with pytest.raises(ValueError, match=r"streamed.files\[0\] was \['0.parquet', \d+, '\w+'\], is \['1.parquet'"):
        made(sections).load_state_dict(state)
    sections["streamed"]["dataset"]["data_files"] = files[:1]
    with pytest.raises(ValueError, match="streamed.shards was 2, is 1; sources.streamed.files were 2, are 1"):
        made(sections).load_state_dict(state)


def test_other_sources_and_another_order_of_them_are_named(folder):
    state, sections = begun(sources(folder)), sources(folder)
    with pytest.raises(ValueError, match=r"order\[0\] was 'streamed', is 'world'"):
        made(dict(reversed(sections.items()))).load_state_dict(state)
    del sections["tars"]
    with pytest.raises(ValueError, match="order were 4, are 3; sources.tars was {.*, is None"):
        made(sections).load_state_dict(state)


def test_a_state_that_does_not_say_what_its_sources_were_is_refused(folder):
    state, data = begun(sources(folder)), made(sources(folder))
    old = {**state, "made_of": {"seed": 0, "streams": 2, "weights": {"streamed": 1.0}}}
    with pytest.raises(ValueError, match="by an earlier version, which did not note what its sources were"):
        data.load_state_dict(old)
    assert not data.states


def test_what_may_change_does_and_it_goes_on(folder):
    """How many rows may be unusable, or are stated to be there, changes no row that is drawn."""
    state = begun(sources(folder))
    data = made(sources(folder, rows=12))
    data.mixture.max_skipped = 0.5
    data.load_state_dict(state)
    assert data.rows_consumed == 4


def test_states_survive_json(folder):
    data = made(sources(folder))
    for batch in islice(data.loader(num_workers=2), 6):
        data.consume(batch)
    assert all(isinstance(state, StreamState) and state.packing.before.readers for state in data.states.values())
    resumed = made(sources(folder))
    resumed.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert resumed.states == data.states and resumed.rows_consumed == 6
    kinds = {name: type(each).__name__ for name, each in data.states[0].packing.before.readers.items()}
    assert set(kinds.items()) <= {
        ("streamed", "StreamedState"),
        *((name, "IndexedState") for name in ("indexed", "tars", "world")),
    }


def test_rows_that_are_no_files_are_told_apart_by_what_they_hold():
    def of(dataset):
        return Source(dataset).reader("a").made_of()

    assert of(texts(300)) == of(texts(300)) != of(texts(300, 1))
    reordered = texts(300).select([1, 0, *range(2, 300)])
    assert of(reordered) != of(texts(300)) and of(texts(299)) != of(texts(300))
    conversations = [[{"role": "user", "content": [{"type": "text", "text": str(n)}]}] for n in range(3)]
    assert of(conversations) != of(conversations[::-1])
    streamed = Dataset.from_dict({"prompt": ["a"], "answer": ["b"]}).to_iterable_dataset(num_shards=1)
    other = Dataset.from_dict({"prompt": ["c"], "answer": ["b"]}).to_iterable_dataset(num_shards=1)
    assert of(streamed) == of(streamed) != of(other)


def test_splits_and_columns_of_streamed_files_are_told_apart(folder):
    def of(**arguments):
        files = {"path": "parquet", "data_files": str(folder / "*.parquet"), "streaming": True, **arguments}
        return Source.from_recipe({"dataset": files}).made_of()

    assert of() != of(columns=["prompt"])


# --- what was done to a stream, and becomes of its rows -------------------------------------------------------------


def test_what_was_done_to_a_stream_is_told_apart_in_another_process_too(folder):
    here = made_of_steps(folder)
    assert here["nothing"].keys() == {"shuffle", "shuffle_buffer", "shards", "files"}
    for one, other in combinations(here, 2):
        assert here[one] != here[other], (one, other)
    script = "import json, stream_steps, sys; print(json.dumps(stream_steps.made_of_steps(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(folder)]
    helpers = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "1"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | helpers).stdout
    assert json.loads(told.splitlines()[-1]) == json.loads(json.dumps(here))


def test_a_step_that_cannot_be_hashed_is_never_taken_for_the_same(folder):
    numbers = (number for number in range(9))
    rows = load_dataset("parquet", data_files=str(folder / "0.parquet"), split="train", streaming=True)
    rows = rows.filter(lambda row: next(numbers) > 1)
    one, other = (Source(rows).reader("a").made_of() for _ in range(2))
    assert one["files"] == other["files"] and one["steps"] != other["steps"]
    assert "cannot be hashed (TypeError: cannot pickle 'generator'" in one["steps"][0]


@pytest.fixture
def arm_processor(arm_folder):
    return ArmProcessor.from_pretrained(arm_folder)


def test_another_image_processor_tokenizer_or_length_of_captions_is_named(folder, arm_processor):
    state = begun(sources(folder))
    with pytest.raises(ValueError, match="had other data: image_processor.size.height was 32, is 48"):
        made(sources(folder), size=48).load_state_dict(state)
    collator = ImageTextCollator(caption_tokenizer=arm_processor.tokenizer, max_caption_length=9)
    with pytest.raises(ValueError, match=r"max_caption_length was 256, is 9; tokenizers\[1\] was None, is '"):
        made(sources(folder), collator=collator).load_state_dict(state)


def test_a_tokenizer_is_the_same_after_its_use_and_another_with_another_token(arm_processor):
    def of(tokenizer):
        return of_processing(arm_processor.image_processor, tokenizer)

    tokenizer = copy.deepcopy(arm_processor.tokenizer)
    before = of(tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    assert of(tokenizer) == before == of(arm_processor.tokenizer)
    tokenizer.add_tokens(["<|another|>"])
    assert of(tokenizer) != before
