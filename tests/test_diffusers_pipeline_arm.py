"""`ArmPipeline` is called as diffusers' pipelines are, and gives what the transformers pipelines give."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLInpaintPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from pipeline_requests import Listening, pictures_prepared
from tiny_arm import runs_of
from transformers import pipeline

from transformers_arm import ArmForCausalLM, ArmPipeline, ArmPixelDetokenizer, ArmProcessor

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the red circle green"
FAST = {"num_inference_steps": 1, "decoder_guidance_scale": 1.0}
PACKAGE = Path(__file__).parents[1] / "src" / "transformers_arm"


def picture(width=48, height=48, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def same(ours, theirs):
    """Whether pictures are equal but for a level that batching may round differently."""
    pairs = zip(ours, theirs, strict=True)
    return all(one.size == other.size and np.abs(np.int_(one) - np.int_(other)).max() <= 1 for one, other in pairs)


@pytest.fixture(scope="module")
def pipe(arm_folder):
    pipe = ArmPipeline.from_pretrained(arm_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_arguments_are_those_of_diffusers_inpainting():
    ours = inspect.signature(ArmPipeline.__call__).parameters
    theirs = inspect.signature(StableDiffusionXLInpaintPipeline.__call__).parameters
    assert set(ours) - set(theirs) == {"image_guidance_scale"}
    assert ours["output_type"].default == theirs["output_type"].default
    assert issubclass(ArmPipeline, DiffusionPipeline)


def test_prompts_are_drawn_as_by_text_to_image(pipe, draw):
    output = pipe(PROMPT, generator=seeds(0), **FAST)
    assert isinstance(output, ImagePipelineOutput)
    assert same(output.images, [draw(PROMPT, generator=seeds(0))])
    sampling = {"guidance_scale": 3.0, "temperature": 0.8, "height": 32, "width": 64}
    output = pipe(prompt=[PROMPT, "a cross"], generator=seeds(0, 1), **FAST, **sampling)
    assert same(output.images, draw([PROMPT, "a cross"], generator=seeds(0, 1), **sampling))


def test_pictures_of_each_prompt_stand_next_to_each_other(pipe, draw):
    images = pipe([PROMPT, "a cross"], num_images_per_prompt=2, generator=seeds(*range(4)), **FAST).images
    expected = draw([PROMPT, "a cross"], num_images_per_prompt=2, generator=seeds(*range(4)))
    assert len(images) == 4 and same(images, [*expected[0], *expected[1]])


def test_pictures_are_edited_as_by_image_editing(pipe, edit):
    sampling = {"guidance_scale": 2.0, "image_guidance_scale": 1.5}
    edited = pipe(INSTRUCTION, image=picture(100, 80), generator=seeds(0), **FAST, **sampling).images
    assert same(edited, [edit(picture(100, 80), INSTRUCTION, generator=seeds(0), **sampling)])


def test_each_picture_is_prepared_and_encoded_once(pipe, monkeypatch):
    prepared, encoded = pictures_prepared(monkeypatch), runs_of(pipe.model.vq_model.vision_model)
    pipe([INSTRUCTION] * 2, image=[picture(100, 80), picture(seed=1)], **FAST)
    assert prepared == encoded == [2]


def test_one_picture_or_prompt_serves_several(pipe, edit):
    prompts, sources = [INSTRUCTION, "remove the cross"], [picture(100, 80), picture(30, 30, seed=1)]
    for prompt, image, paired in (
        (prompts, sources[0], ([sources[0]] * 2, prompts)),
        (INSTRUCTION, sources, (sources, [INSTRUCTION] * 2)),
        (prompts, sources, (sources, prompts)),
    ):
        edited = pipe(prompt, image=image, generator=seeds(0, 1), **FAST).images
        assert same(edited, edit(*paired, generator=seeds(0, 1)))


def test_masks_keep_what_they_do_not_select(pipe, edit):
    mask = Image.new("L", (100, 80))
    mask.paste(255, (0, 0, 30, 20))
    edited = pipe(INSTRUCTION, picture(100, 80), mask, generator=seeds(0), mask_margin=2, **FAST).images
    assert same(edited, [edit(picture(100, 80), INSTRUCTION, mask, generator=seeds(0), mask_margin=2)])
    assert edited[0].crop((33, 0, 100, 80)).tobytes() == picture(100, 80).crop((33, 0, 100, 80)).tobytes()
    masks = [mask.resize((48, 48)), None]
    edited = pipe(INSTRUCTION, [picture(), picture(seed=1)], mask_image=masks, generator=seeds(0, 1), **FAST).images
    assert same(edited, edit([picture(), picture(seed=1)], INSTRUCTION, masks, generator=seeds(0, 1)))


def test_pictures_come_as_arrays_and_tensors_too(pipe):
    pil = pipe([PROMPT, "a cross"], generator=seeds(0, 1), **FAST).images
    array = pipe([PROMPT, "a cross"], generator=seeds(0, 1), output_type="np", **FAST).images
    (tensor,) = pipe([PROMPT, "a cross"], generator=seeds(0, 1), output_type="pt", return_dict=False, **FAST)
    assert (array.shape, array.dtype) == ((2, 48, 48, 3), np.float32)
    assert np.array_equal(np.round(array * 255), np.stack([np.asarray(each) for each in pil]))
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2))


def test_progress_is_shown_by_rows_of_tokens_unless_it_is_turned_off(pipe, arm_folder, capsys):
    pipe(PROMPT, **FAST)
    assert "it/s" not in capsys.readouterr().err
    shown = ArmPipeline(**pipe.components)
    shown(PROMPT, height=32, **FAST)
    assert "4/4" in capsys.readouterr().err
    shown.set_progress_bar_config(desc="drawing")
    shown(INSTRUCTION, image=picture(), **FAST)
    assert "drawing: 100%|██████████| 5/5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("requests", "batches", "total"),
    [
        ({"prompt": [PROMPT] * 3, "batch_size": 2}, [2, 1], 10),
        ({"prompt": [PROMPT] * 2, "batch_size": 1, "height": 32}, [1, 1], 8),
        ({"prompt": [PROMPT] * 3, "batch_size": 2, "image_grid": (2, 1)}, [2, 1], 8),
        ({"prompt": INSTRUCTION, "image": [picture()] * 3, "batch_size": 2}, [2, 1], 10),
        ({"prompt": [PROMPT] * 9}, [8, 1], 10),
        ({"prompt": [PROMPT] * 3, "num_images_per_prompt": 4}, [2, 1], 10),
        ({"prompt": PROMPT, "num_images_per_prompt": 9}, [1], 5),
        ({"prompt": [PROMPT] * 17, "batch_size": 17, "image_grid": (1, 1)}, [17], 3),
    ],
)
def test_requests_are_drawn_some_at_a_time_under_one_bar(pipe, capsys, monkeypatch, requests, batches, total):
    heard, shown = Listening(monkeypatch, pipe.model), ArmPipeline(**pipe.components)
    pictures = shown(**requests, generator=torch.Generator().manual_seed(0), **FAST).images
    assert len(pictures) == sum(batches) * requests.get("num_images_per_prompt", 1)
    assert [len(call["input_ids"]) for call in heard.calls] == batches
    shown_of_all = capsys.readouterr().err
    assert f"{total}/{total}" in shown_of_all and "text-to-image" not in shown_of_all


def test_a_batch_size_changes_no_picture(pipe):
    drawn = [pipe([PROMPT, "a cross", ""], batch_size=size, generator=seeds(0, 1, 2), **FAST) for size in (1, 2, 8)]
    assert same(drawn[0].images, drawn[1].images) and same(drawn[0].images, drawn[2].images)


def test_streamers_get_every_batch_beside_the_bar(pipe, capsys):
    class Shapes(list):
        def put(self, value):
            self.append(list(value.shape))

        def end(self):
            self.append("end")

    shown, streamer = ArmPipeline(**pipe.components), Shapes()
    shown([PROMPT] * 3, batch_size=2, height=32, streamer=streamer, **FAST)
    assert streamer == [[2, 3], [2, 3], [2, 3], [2, 1], "end", [1, 3], [1, 3], [1, 3], [1, 1], "end"]
    assert "8/8" in capsys.readouterr().err


def test_components_make_another_pipeline_and_move_together(arm_folder):
    pipe = ArmPipeline.from_pretrained(arm_folder, torch_dtype=torch.bfloat16)
    assert [type(part) for part in pipe.components.values()] == [ArmForCausalLM, ArmProcessor, ArmPixelDetokenizer]
    assert pipe.device == torch.device("cpu") and pipe.dtype == torch.bfloat16
    assert pipe.detokenizer.dtype == torch.bfloat16
    other = ArmPipeline(**pipe.components)
    assert other.model is pipe.model and other.to("cpu", torch.float32) is other
    assert other.model.dtype == other.detokenizer.dtype == torch.float32
    assert ArmPipeline.from_pretrained(arm_folder, dtype="bfloat16").model.dtype == torch.bfloat16
    meta = other.to("meta")
    assert meta.device.type == "meta" and meta.detokenizer.device.type == "meta"


def test_saved_pipelines_load_again_for_both_libraries(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe(PROMPT, generator=seeds(0), **FAST).images
    again = ArmPipeline.from_pretrained(tmp_path / "saved")
    assert same(again(PROMPT, generator=seeds(0), **FAST).images, expected)
    draw = pipeline("text-to-image", model=str(tmp_path / "saved"), device="cpu", **FAST)
    assert same([draw(PROMPT, generator=seeds(0))], expected)


def test_it_works_as_code_that_comes_with_a_folder(arm_folder, pipe, tmp_path):
    """In a process without this package; the folder holds the flat files, as a repo on the Hub does."""
    from transformers_arm.hub.remote_code import add_remote_code

    folder = shutil.copytree(arm_folder, tmp_path / "arm")
    add_remote_code(folder)
    script = f"""
import sys
sys.modules["transformers_arm"] = None
import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module
pipeline_class = get_class_from_dynamic_module("diffusers_pipeline_arm.ArmPipeline", {str(folder)!r})
pipe = pipeline_class.from_pretrained({str(folder)!r}, trust_remote_code=True)
pipe({PROMPT!r}, generator=torch.Generator().manual_seed(0), **{FAST}).images[0].save({str(tmp_path / "drawn.png")!r})
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    expected = pipe(PROMPT, generator=torch.Generator().manual_seed(0), **FAST).images
    assert same([Image.open(tmp_path / "drawn.png")], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output_type": "latent"}, ValueError, "Unknown output_type 'latent'; use 'pil', 'np' or 'pt'"),
        ({"mask_image": picture()}, ValueError, "there is no image; pass it, or no mask"),
        ({"negative_prompt": "blur"}, TypeError, "Unknown argument negative_prompt; this pipeline takes"),
        ({"prompt": None}, TypeError, "A prompt is a str, not None"),
        ({"prompt": []}, ValueError, "list of requests is empty"),
        ({"prompt": None, "image": picture()}, TypeError, "A prompt is a str, not None"),
        ({"prompt": ["a", "b"], "image": [picture()]}, ValueError, "2 instructions for 1 images"),
        ({"height": 50}, ValueError, r"50x48 \(height x width\) must be multiples of the 16 px patch"),
        ({"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt 0 must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size 0 must be a whole number of requests, 1 or more"),
        ({"batch_size": 2.5}, ValueError, "batch_size 2.5 must be a whole number of requests, 1 or more"),
        ({"generator": seeds(0, 1)}, ValueError, "2 generators for 1 images"),
        (
            {"image": [picture(), picture(64, 48)], "output_type": "np"},
            ValueError,
            r"Pictures of the sizes \[\(48, 48\), \(64, 48\)\] \(width, height\) do not fit one array",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_bad_calls_are_refused(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(**{"prompt": PROMPT, **FAST, **arguments})


def test_folders_without_a_detokenizer_are_refused(arm_folder, tmp_path):
    folder = shutil.copytree(arm_folder, tmp_path / "arm", ignore=shutil.ignore_patterns("detokenizer"))
    with pytest.raises(FileNotFoundError, match="holds no detokenizer/model_index.json; name a complete ARM folder"):
        ArmPipeline.from_pretrained(folder)


def test_private_repos_load_at_one_commit_with_the_token_of_the_call(hub, arm_folder, pipe, tmp_path):
    other = shutil.copytree(arm_folder, tmp_path / "other")
    (other / "detokenizer" / "model_index.json").unlink()
    hub.add_repo("someone/arm", arm_folder, revision="v1", private=True)
    hub.add_repo("someone/arm", other, private=True)
    cache = {"token": hub.token, "cache_dir": tmp_path / "cache"}
    loaded = ArmPipeline.from_pretrained("someone/arm", revision="v1", **cache)
    expected = pipe(PROMPT, generator=seeds(0), **FAST).images
    assert same(loaded(PROMPT, generator=seeds(0), **FAST).images, expected)
    again = ArmPipeline.from_pretrained("someone/arm", revision="v1", local_files_only=True, **cache)
    assert same(again(PROMPT, generator=seeds(0), **FAST).images, expected)
    with pytest.raises(FileNotFoundError, match="holds no detokenizer/model_index.json"):
        ArmPipeline.from_pretrained("someone/arm", **cache)
    with pytest.raises(OSError, match="someone/arm is not a local folder"):
        ArmPipeline.from_pretrained("someone/arm", revision="v1", cache_dir=tmp_path / "empty")
