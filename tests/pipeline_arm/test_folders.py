"""Pipelines do what the model's folder says and calls replace; every Auto class loads it, and it is saved whole."""

import json
import shutil

import pytest
import torch
from pipeline_requests import FAST, INSTRUCTION, PROMPT, Listening, asked, assert_same, differ, picture, seeds
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


def test_the_detokenizer_comes_from_the_hub_as_the_model_does(hub, arm_folder, tmp_path):
    other = shutil.copytree(arm_folder, tmp_path / "other")
    detokenizer = ArmPixelDetokenizer.from_pretrained(other / "detokenizer")
    detokenizer.register_to_config(default_steps=7)
    detokenizer.save_pretrained(other / "detokenizer")
    hub.add_repo("someone/drawing", other, revision="v1", private=True)
    hub.add_repo("someone/drawing", arm_folder, private=True)
    given = {"model": "someone/drawing", "token": hub.token, "model_kwargs": {"cache_dir": str(tmp_path / "cache")}}
    pinned = pipeline("text-to-image", revision="v1", **given)
    assert pinned.detokenizer.config.default_steps == 7
    assert pipeline("text-to-image", **given).detokenizer.config.default_steps != 7
    assert not list((hub.folder / "own_cache").rglob("model_index.json"))


def test_no_code_comes_with_a_detokenizer(hub, arm_folder, tmp_path):
    other = shutil.copytree(arm_folder, tmp_path / "other")
    (other / "detokenizer" / "scheduler" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    hub.add_repo("someone/coding", other)
    pipeline("text-to-image", model="someone/coding", model_kwargs={"cache_dir": str(tmp_path / "cache")})
    assert list((tmp_path / "cache").rglob("model_index.json")) and not list((tmp_path / "cache").rglob("*.py"))


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
