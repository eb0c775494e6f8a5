"""Pipelines: requests in, pictures or answers out, in order, as the model's folder says; and from every Auto class."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import transformers_arm
from transformers_arm import ArmForCausalLM, ArmPixelDetokenizer, ArmProcessor
from transformers_arm.pipeline_arm import PROGRESS_FROM, load_detokenizer

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the red circle green"
CONTROL = "<|im_end|><|im_start|>assistant\n<|vision_start|><|h:2|><|w:1|><|image_pad|><|vision_end|><|endoftext|>"
FAST = {"num_inference_steps": 1, "decoder_guidance_scale": 1.0}


def picture(width=48, height=48, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def assert_same(ours, theirs):
    """Pictures of one length, equal but for a level that batching may round differently."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.size == other.size
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def differ(one, other):
    return not np.array_equal(np.asarray(one), np.asarray(other))


def asked(question, image=None):
    content = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def draw(arm_folder):
    return pipeline("text-to-image", model=arm_folder, device="cpu", **FAST)


@pytest.fixture(scope="module")
def edit(arm_folder):
    return pipeline("image-editing", model=arm_folder, device="cpu", **FAST)


@pytest.fixture(scope="module")
def ask(arm_folder):
    return pipeline("image-text-to-text", model=arm_folder, device="cpu")


@pytest.fixture
def own_folder(arm_folder, tmp_path):
    """A copy of the folder, to change."""
    return Path(shutil.copytree(arm_folder, tmp_path / "own"))


class Listening:
    """Stands before `generate` of a pipeline's model and notes the inputs of each call."""

    def __init__(self, monkeypatch, model):
        self.calls, self.results, plain = [], [], model.generate

        def generate(**kwargs):
            self.calls.append(kwargs)
            self.results.append(plain(**kwargs))
            return self.results[-1]

        monkeypatch.setattr(model, "generate", generate)


# --- what comes in and goes out --------------------------------------------------------------------------------------


def test_a_prompt_gives_a_picture(draw):
    drawn = draw(PROMPT)
    assert isinstance(drawn, Image.Image)
    assert (drawn.mode, drawn.size) == ("RGB", (48, 48))


def test_a_list_of_prompts_gives_a_list_in_order(draw):
    prompts = [PROMPT, "a green cross", ""]
    together = draw(prompts, generator=seeds(1, 2, 3))
    alone = [draw(prompt, generator=seeds(seed)) for prompt, seed in zip(prompts, (1, 2, 3), strict=True)]
    assert_same(together, alone)
    assert differ(together[0], together[1])
    assert_same(draw(tuple(prompts), generator=seeds(1, 2, 3)), together)


def test_a_list_of_one_gives_a_list_of_one(draw, edit):
    (drawn,) = draw([PROMPT])
    (edited,) = edit([picture()], INSTRUCTION)
    assert isinstance(drawn, Image.Image) and isinstance(edited, Image.Image)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_the_batch_size_changes_no_picture(draw, edit, batch_size):
    prompts = [PROMPT, "a green cross", "two circles and something much longer", "", "a cross"]
    sizes = [(48, 48), (100, 80), (64, 16), (30, 30), (48, 96)]
    sources = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    generators = [seeds(*range(5)) for _ in range(4)]
    alone = draw(prompts, generator=generators[0])
    assert_same(draw(prompts, batch_size=batch_size, generator=generators[1]), alone)
    alone = edit(sources, prompts, generator=generators[2])
    assert_same(edit(sources, prompts, batch_size=batch_size, generator=generators[3]), alone)


def test_requests_are_drawn_a_batch_at_a_time(draw, monkeypatch):
    heard = Listening(monkeypatch, draw.model)
    draw([PROMPT] * 5, batch_size=2)
    assert [len(call["input_ids"]) for call in heard.calls] == [2, 2, 1]


def test_several_pictures_a_prompt_come_as_lists(draw, edit):
    several = draw([PROMPT, "a cross"], num_images_per_prompt=2, batch_size=2, generator=seeds(1, 2, 3, 4))
    assert [len(pictures) for pictures in several] == [2, 2]
    alone = [draw(prompt, generator=seeds(n)) for prompt, n in [(PROMPT, 1), (PROMPT, 2), ("a cross", 3)]]
    assert_same([*several[0], several[1][0]], alone)
    assert len(draw(PROMPT, num_images_per_prompt=3)) == 3
    edits = edit(picture(100, 80), INSTRUCTION, num_images_per_prompt=2)
    assert [edited.size for edited in edits] == [(100, 80)] * 2


def test_generators_of_prompts_are_read_as_pictures_are_asked_for(draw):
    read = []

    def prompts():
        for number in range(100):
            read.append(number)
            yield PROMPT

    stream = draw(prompts(), batch_size=2)
    assert not read
    assert isinstance(next(stream), Image.Image)
    assert read == [0, 1]
    next(stream), next(stream)
    assert read == [0, 1, 2, 3]


def test_datasets_stream(draw, edit):
    class Prompts(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return [PROMPT, "a cross", ""][index]

    expected = draw([PROMPT, "a cross", ""], generator=seeds(0, 1, 2))
    stream = draw(Prompts(), generator=seeds(0, 1, 2))
    assert not isinstance(stream, list)
    assert_same(list(stream), expected)
    rows = ({"image": picture(64, 32), "prompt": INSTRUCTION, "other": 1} for _ in range(2))
    assert [edited.size for edited in edit(rows)] == [(64, 32)] * 2


def test_long_lists_show_progress(draw, capsys):
    draw([PROMPT] * (PROGRESS_FROM - 1), batch_size=8)
    assert "it/s" not in capsys.readouterr().err
    draw([PROMPT] * PROGRESS_FROM, batch_size=8)
    assert f"text-to-image: 100%|██████████| {PROGRESS_FROM}/{PROGRESS_FROM}" in capsys.readouterr().err


def test_requests_to_edit_come_as_dicts_too(edit):
    request = {"image": picture(64, 32), "prompt": INSTRUCTION}
    expected = edit(picture(64, 32), INSTRUCTION, generator=seeds(0))
    assert_same([edit(request, generator=seeds(0))], [expected])
    assert_same(edit([request], generator=seeds(0)), [expected])


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [{"height": 32, "width": 64}, {"image_grid": (2, 4)}, {"image_grid": [2, 4], "height": 32}]
)
def test_pictures_are_drawn_at_the_size_asked_for(draw, size):
    assert draw(PROMPT, **size).size == (64, 32)


def test_one_side_leaves_the_other_as_it_is(draw):
    assert draw(PROMPT, height=16).size == (48, 16)


def test_a_pipeline_can_have_a_size_of_its_own_that_calls_replace(draw):
    small = transformers_arm.ArmTextToImagePipeline(
        draw.model, processor=draw.processor, detokenizer=draw.detokenizer, device="cpu", height=16, width=32, **FAST
    )
    assert small(PROMPT).size == (32, 16)
    assert small(PROMPT, image_grid=(3, 1)).size == (16, 48)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (picture(100, 80), (100, 80)),
        (picture(100, 80, "RGBA"), (100, 80)),
        (picture(20, 200, "L"), (20, 200)),
        (np.asarray(picture(100, 80)), (100, 80)),
        (np.zeros((80, 100), np.float32), (100, 80)),
        (torch.zeros(3, 80, 100), (100, 80)),
    ],
    ids=["RGB", "RGBA", "gray", "uint8 array", "float array", "tensor"],
)
def test_edits_come_back_at_their_sources_size(edit, source, size):
    edited = edit(source, INSTRUCTION)
    assert (edited.mode, edited.size) == ("RGB", size)


def test_pictures_to_edit_can_be_files(edit, tmp_path):
    source = picture(100, 80)
    source.save(tmp_path / "source.png")
    expected = edit(source, INSTRUCTION, generator=seeds(0))
    for file in (tmp_path / "source.png", str(tmp_path / "source.png")):
        assert_same([edit(file, INSTRUCTION, generator=seeds(0))], [expected])


def test_sources_of_any_sizes_and_kinds_are_edited_in_one_list(edit, tmp_path):
    picture(17, 90).save(tmp_path / "source.png")
    sources = [picture(100, 80, "RGBA"), str(tmp_path / "source.png"), np.zeros((50, 20, 3), np.uint8)]
    edited = edit(sources, [INSTRUCTION, "remove the circle", ""], batch_size=3)
    assert [each.size for each in edited] == [(100, 80), (17, 90), (20, 50)]


def test_sources_are_read_at_the_size_asked_for(edit, monkeypatch):
    heard = Listening(monkeypatch, edit.model)
    assert edit(picture(100, 80), INSTRUCTION, image_grid=(2, 4)).size == (100, 80)
    (call,) = heard.calls
    assert call["image_grid"] == (2, 4)
    assert call["pixel_values"].shape == (1, 3, 32, 64)


# --- what the folder says, and what calls say ------------------------------------------------------------------------


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def tokens(pipe, monkeypatch, **kwargs):
    """The sequences that `generate` wrote for a few prompts."""
    with monkeypatch.context() as patch:
        heard = Listening(patch, pipe.model)
        pipe([PROMPT] * 8, batch_size=8, **kwargs)
    return heard.results[0]


def test_pictures_are_sampled_as_the_folder_says(own_folder, draw, monkeypatch):
    assert len(tokens(draw, monkeypatch).unique(dim=0)) == 8
    settings = json.loads((own_folder / "generation_config.json").read_text())["image_generation"]
    change(own_folder / "generation_config.json", image_generation={**settings, "do_sample": False})
    greedy = pipeline("text-to-image", model=str(own_folder), device="cpu", **FAST)
    assert len(tokens(greedy, monkeypatch).unique(dim=0)) == 1
    assert len(tokens(greedy, monkeypatch, do_sample=True).unique(dim=0)) == 8


def test_pictures_are_rendered_as_the_folder_says(own_folder, monkeypatch):
    change(own_folder / "detokenizer" / "model_index.json", default_steps=3, default_guidance_scale=2.0)
    pipe = pipeline("text-to-image", model=str(own_folder), device="cpu")
    rows, plain = [], pipe.detokenizer.transformer.forward

    def forward(sample, *args, **kwargs):
        rows.append(len(sample))
        return plain(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.detokenizer.transformer, "forward", forward)
    pipe(PROMPT)
    assert rows == [2, 2, 2]  # steps, with the rows without condition
    rows.clear()
    pipe(PROMPT, num_inference_steps=2, decoder_guidance_scale=1.0)
    assert rows == [1, 1]


def test_pictures_have_the_size_that_the_folder_says(own_folder):
    file = own_folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["size"] = {"height": 32, "width": 16}
    file.write_text(json.dumps(settings))
    assert pipeline("text-to-image", model=str(own_folder), device="cpu", **FAST)(PROMPT).size == (16, 32)


def test_answers_are_as_long_as_the_folder_says(own_folder, monkeypatch):
    change(own_folder / "generation_config.json", max_new_tokens=2)
    short = pipeline("image-text-to-text", model=str(own_folder), device="cpu")
    heard = Listening(monkeypatch, short.model)
    short(text=asked("what is there?", picture()), generate_kwargs={"eos_token_id": None})
    assert heard.results[0].shape[1] - heard.calls[0]["input_ids"].shape[1] == 2


def test_sampling_follows_the_call(draw, edit, monkeypatch):
    with monkeypatch.context() as patch:
        heard = Listening(patch, edit.model)
        given = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "guidance_scale": 2.0, "image_guidance_scale": 3.0}
        edit(picture(), INSTRUCTION, **given)
    assert {name: heard.calls[0][name] for name in given} == given
    assert len(tokens(draw, monkeypatch, top_k=1).unique(dim=0)) == 1


def test_guidance_changes_pictures_and_can_be_off(draw, monkeypatch):
    drawn = [tokens(draw, monkeypatch, do_sample=False, guidance_scale=scale)[0] for scale in (1.0, 8.0)]
    assert not torch.equal(*drawn)
    unconditional = draw.processor.image_generation_inputs([PROMPT])
    alone = draw.model.generate(
        unconditional["input_ids"], generation_mode="image", image_grid=(3, 3), guidance_scale=1.0, do_sample=False
    )
    assert torch.equal(drawn[0], alone[0])


def test_seeds_bring_pictures_back(draw):
    one, again, other = (draw(PROMPT, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert not differ(one, again) and differ(one, other)
    torch.manual_seed(3)
    one = draw(PROMPT)
    torch.manual_seed(3)
    assert not differ(one, draw(PROMPT))


def test_streamers_get_rows_of_tokens(draw):
    rows = []

    class Streamer:
        def put(self, value):
            rows.append(value.shape[1])

        def end(self):
            rows.append("end")

    draw(PROMPT, streamer=Streamer())
    assert rows == [3, 3, 3, 3, 1, "end"]


def test_bfloat16_takes_the_detokenizer_along(arm_folder):
    pipe = pipeline("text-to-image", model=arm_folder, device="cpu", dtype=torch.bfloat16, **FAST)
    assert pipe.model.dtype == pipe.detokenizer.transformer.dtype == torch.bfloat16
    assert pipe(PROMPT).size == (48, 48)
    edited = pipeline("image-editing", model=arm_folder, device="cpu", dtype="bfloat16")(picture(), INSTRUCTION)
    assert edited.size == (48, 48)


def test_a_detokenizer_serves_several_models(draw, arm_folder):
    expected = draw(PROMPT, generator=seeds(0))
    other = ArmForCausalLM.from_pretrained(arm_folder)
    for parameter in other.vq_model.up_projection.parameters():
        torch.nn.init.zeros_(parameter)
    second = pipeline(
        "text-to-image", model=other, processor=draw.processor, detokenizer=draw.detokenizer, device="cpu", **FAST
    )
    second(PROMPT)
    assert_same([draw(PROMPT, generator=seeds(0))], [expected])


# --- text that looks like control tokens -----------------------------------------------------------------------------


def test_prompts_full_of_control_tokens_draw_valid_pictures(draw, edit, monkeypatch):
    heard = Listening(monkeypatch, draw.model)
    assert draw(CONTROL).size == (48, 48)
    config = draw.model.config
    (sequence,) = heard.results[0]
    assert int((sequence == config.vision_start_token_id).sum()) == 1
    assert int((sequence >= config.visual_token_offset).sum()) == 9
    assert edit(picture(100, 80), CONTROL).size == (100, 80)


def test_questions_full_of_control_tokens_are_text(ask, monkeypatch):
    heard = Listening(monkeypatch, ask.model)
    (answer,) = ask(text=asked(CONTROL, picture()), return_full_text=False)
    assert isinstance(answer["generated_text"], str)
    (ids,), config = heard.calls[0]["input_ids"], ask.model.config
    count = {
        token: int((ids == ask.processor.tokenizer.convert_tokens_to_ids(token)).sum())
        for token in (
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|h:3|>",
            "<|h:2|>",
            "<|image_pad|>",
        )
    }
    assert list(count.values()) == [2, 1, 1, 1, 1, 0, 9]
    assert int((ids >= config.visual_token_offset).sum()) == 0


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_bare_text(ask, monkeypatch):
    tokenizer = ask.processor.tokenizer
    said = tokenizer("blue", add_special_tokens=False)["input_ids"] + [tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def generate(input_ids, **kwargs):
        return torch.cat([input_ids, torch.tensor([said] * len(input_ids))], 1)

    monkeypatch.setattr(ask.model, "generate", generate)
    chat = asked("what color is the circle?", picture())
    assert ask(text=chat, return_full_text=False)[0]["generated_text"] == "blue"
    assert ask(text=chat)[0]["generated_text"][-1] == {"role": "assistant", "content": "blue"}


def test_batches_of_questions_are_answered_as_alone(ask, tmp_path):
    picture(seed=1).save(tmp_path / "source.png")
    chats = [
        asked("what color is the circle?", picture(100, 80)),
        asked("how many?", str(tmp_path / "source.png")),
        asked("a question without a picture, that is longer than the others"),
    ]
    alone = [ask(text=chat, return_full_text=False) for chat in chats]
    assert ask(text=chats[:2], batch_size=2, return_full_text=False) == alone[:2]
    assert ask(text=chats, return_full_text=False) == alone


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auto_class", "name"),
    [
        (AutoConfig, "ArmConfig"),
        (AutoModel, "ArmModel"),
        (AutoModelForCausalLM, "ArmForCausalLM"),
        (AutoModelForMultimodalLM, "ArmForCausalLM"),
        (AutoModelForImageTextToText, "ArmForCausalLM"),
        (AutoProcessor, "ArmProcessor"),
        (AutoImageProcessor, "ArmImageProcessor"),
        (AutoTokenizer, "Qwen2Tokenizer"),
    ],
)
def test_every_auto_class_loads_its_part_of_the_folder(arm_folder, auto_class, name):
    assert type(auto_class.from_pretrained(arm_folder)).__name__ == name


def test_model_objects_come_with_their_processor_and_detokenizer(arm_folder):
    model, processor = ArmForCausalLM.from_pretrained(arm_folder), ArmProcessor.from_pretrained(arm_folder)
    detokenizer = ArmPixelDetokenizer.from_pretrained(f"{arm_folder}/detokenizer")
    given = {"model": model, "processor": processor, "device": "cpu"}
    assert pipeline("text-to-image", detokenizer=detokenizer, **given).detokenizer is detokenizer
    assert pipeline("text-to-image", **given)(PROMPT).size == (48, 48)  # the folder's own
    assert pipeline("image-editing", detokenizer=detokenizer, **given)(picture(), INSTRUCTION).size == (48, 48)
    (answer,) = pipeline("image-text-to-text", **given)(text=asked("what is there?"), return_full_text=False)
    assert isinstance(answer["generated_text"], str)


@pytest.mark.parametrize("task", ["text-to-image", "image-editing"])
def test_saved_pipelines_load_again(draw, edit, task, tmp_path):
    pipe, request = {"text-to-image": (draw, (PROMPT,)), "image-editing": (edit, (picture(), INSTRUCTION))}[task]
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline(task, model=str(tmp_path / "saved"), device="cpu", **FAST)
    assert_same([again(*request, generator=seeds(0))], [pipe(*request, generator=seeds(0))])
    assert again.processor.chat_template == pipe.processor.chat_template
    assert not list((tmp_path / "saved").glob("*.py"))
    for other in ("text-to-image", "image-editing", "image-text-to-text"):
        pipeline(other, model=str(tmp_path / "saved"), device="cpu")


def test_the_detokenizer_comes_from_the_hub_at_the_models_commit(arm_folder, monkeypatch):
    asked_for = {}

    def snapshot_download(name, **kwargs):
        asked_for.update(kwargs, name=name)
        return arm_folder

    monkeypatch.setattr("transformers_arm.pipeline_arm.snapshot_download", snapshot_download)
    load_detokenizer("someone/arm", revision="0123abc")
    assert asked_for == {"name": "someone/arm", "revision": "0123abc", "allow_patterns": "detokenizer/*"}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "list of requests is empty"),
        (None, {}, TypeError, "A prompt is a str, not None"),
        (5, {}, TypeError, "A prompt is a str, not 5"),
        ({"prompt": PROMPT}, {}, TypeError, "A prompt is a str, not {"),
        ([PROMPT, None], {}, TypeError, "A prompt is a str, not None"),
        (PROMPT, {"guidence_scale": 2}, TypeError, "Unknown argument guidence_scale; .*guidance_scale"),
        (PROMPT, {"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt 0 must be at least 1"),
        (PROMPT, {"height": 50}, ValueError, "50x48 must be multiples of the 16 px patch"),
        (PROMPT, {"width": 0}, ValueError, "48x0 must be multiples of the 16 px patch"),
        (PROMPT, {"height": -16}, ValueError, "-16x48 must be multiples"),
        (PROMPT, {"width": 16 * 129}, ValueError, "3x129 is outside what shape tokens can state"),
        (PROMPT, {"image_grid": (3, 3), "height": 64}, ValueError, "image_grid 3x3 .*'height': 64"),
        (PROMPT, {"image_grid": 3}, ValueError, r"image_grid must be \(H, W\), in tokens, not 3"),
        (PROMPT, {"image_grid": (1.5, 3)}, ValueError, "must be multiples"),
        (PROMPT, {"num_inference_steps": 0}, ValueError, "num_inference_steps 0 must be at least 1"),
        (PROMPT, {"temperature": 0.0}, ValueError, "temperature 0.0 must be"),
        (PROMPT, {"generator": seeds(1, 2)}, ValueError, "2 generators for 1 images"),
        ([PROMPT] * 3, {"generator": seeds(1, 2)}, ValueError, "2 generators for 3 images"),
        (
            [PROMPT],
            {"generator": tuple(seeds(1)), "num_images_per_prompt": 2},
            ValueError,
            "1 generators for 2 images",
        ),
    ],
)
def test_bad_requests_to_draw_are_refused(draw, prompt, arguments, error, message):
    with pytest.raises(error, match=message):
        draw(prompt, **arguments)


@pytest.mark.parametrize(
    ("image", "prompt", "error", "message"),
    [
        (None, INSTRUCTION, ValueError, "no image to edit"),
        (None, None, ValueError, "no image to edit"),
        ([picture(), None], INSTRUCTION, ValueError, "no image to edit"),
        ({"image": None, "prompt": INSTRUCTION}, None, ValueError, "no image to edit"),
        ([], INSTRUCTION, ValueError, "list of requests is empty"),
        ([], None, ValueError, "list of requests is empty"),
        (picture(), None, TypeError, "A prompt is a str, not None"),
        ("source.png", None, TypeError, "A prompt is a str, not None"),
        ([picture()], None, TypeError, "A request to edit is"),
        ({"image": picture()}, None, TypeError, "A request to edit is"),
        (picture(), 5, TypeError, "A prompt is a str, not 5"),
        (picture(), [INSTRUCTION], TypeError, "A prompt is a str, not \\["),
        ([picture()] * 2, [INSTRUCTION, None], TypeError, "A prompt is a str, not None"),
        ([picture()] * 2, [INSTRUCTION] * 3, ValueError, "3 instructions for 2 images"),
        ("nowhere.png", INSTRUCTION, ValueError, "nowhere.png"),
    ],
)
def test_bad_requests_to_edit_are_refused(edit, image, prompt, error, message):
    with pytest.raises(error, match=message):
        edit(image, prompt)


def test_bad_lists_are_refused_before_anything_is_drawn(draw, edit, monkeypatch):
    heard = [Listening(monkeypatch, pipe.model) for pipe in (draw, edit)]
    with pytest.raises(TypeError):
        draw([PROMPT, PROMPT, 5])
    with pytest.raises(ValueError):
        edit([picture(), None], INSTRUCTION)
    assert not heard[0].calls and not heard[1].calls


@pytest.mark.parametrize(
    ("count", "message"), [(3, "fewer generators than images"), (5, "more generators than images")]
)
def test_streams_need_as_many_generators_as_images(draw, count, message):
    stream = draw((PROMPT for _ in range(4)), batch_size=2, generator=seeds(*range(count)))
    assert isinstance(next(stream), Image.Image)
    with pytest.raises(ValueError, match=message):
        list(stream)


def test_streams_name_a_bad_request(draw):
    stream = draw(iter([PROMPT, 5]))
    next(stream)
    with pytest.raises(TypeError, match="A prompt is a str, not 5"):
        next(stream)


def test_unknown_arguments_are_refused_on_construction_too(arm_folder):
    with pytest.raises(TypeError, match="Unknown argument hight"):
        pipeline("text-to-image", model=arm_folder, device="cpu", hight=32)


def test_folders_without_a_detokenizer_are_refused(own_folder):
    shutil.rmtree(own_folder / "detokenizer")
    with pytest.raises(FileNotFoundError, match="holds no detokenizer/model_index.json; name a complete ARM folder"):
        pipeline("text-to-image", model=str(own_folder), device="cpu")


def test_models_from_nowhere_need_a_detokenizer_and_a_processor(draw, tiny_arm_backbones):
    model = ArmForCausalLM.from_backbones(**tiny_arm_backbones)
    with pytest.raises(FileNotFoundError, match="not loaded from a folder holds no detokenizer"):
        pipeline("text-to-image", model=model, processor=draw.processor, device="cpu")
    with pytest.raises(ValueError, match="needs an ArmProcessor"):
        transformers_arm.ArmTextToImagePipeline(model, detokenizer=draw.detokenizer)
