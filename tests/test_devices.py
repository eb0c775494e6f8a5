"""Models that a device map or offloading places draw, edit and answer as the plain model does.

On a machine with a GPU everything runs there too, and what needs one is not skipped.
"""

from copy import deepcopy

import accelerate
import pytest
import torch
from PIL import Image
from pipeline_requests import FAST, INSTRUCTION, PROMPT, asked, assert_same, picture, seeds
from tiny_arm import assemble, assert_close, mixed, pixels
from torch import nn
from transformers import pipeline

from transformers_arm import ArmForCausalLM, ArmPipeline, ArmProcessor, ArmVQModel
from transformers_arm.evaluation.arm import Arm
from transformers_arm.loading_arm import execution_device, hooked, is_placed, stated_device, under_hooks
from transformers_arm.pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline
from transformers_arm.renderers_arm import load_detokenizer

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
SMALL = {"height": 32, "width": 32}  # not the tower's own size, so that positions are interpolated
LAYERS = [f"model.layers.{number}" for number in range(4)]
OTHERS = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
VQ_PARTS = [
    f"model.vq_model.{name}"
    for name in ("feature_norm", "down_blocks", "down_norm", "down_projection", "channel_norm", "up_projection")
] + ["model.vq_model.up_blocks", "model.vq_model.up_norm"]
TOWER = [f"model.vq_model.vision_model.{name}" for name in ("encoder", "post_layernorm")]
EMBEDDINGS = [f"model.vq_model.vision_model.embeddings.{name}_embedding" for name in ("patch", "position")]
TEXT = [*OTHERS, *LAYERS]
VQ = [*VQ_PARTS, *TOWER, *EMBEDDINGS]
MAPS = {
    "all on the disk": {"": "disk"},
    "head and tokenizer": {**dict.fromkeys(TEXT, "here"), "lm_head": "disk", "model.vq_model": "disk"},
    "the disk first": {"model.vq_model": "disk", **dict.fromkeys(TEXT, "here")},
    "every other layer": {
        **dict.fromkeys(TEXT, "here"),
        **dict.fromkeys(LAYERS[::2], "disk"),
        "model.vq_model": "cpu",
    },
    "embeddings and norm": {
        **dict.fromkeys(TEXT, "cpu"),
        **{"model.embed_tokens": "disk", "model.norm": "disk", "model.vq_model": "here"},
    },
    "every other part": {**dict.fromkeys(TEXT, "here"), **dict.fromkeys(VQ, "cpu"), **dict.fromkeys(VQ[::2], "disk")},
    "positions": {**dict.fromkeys(TEXT, "here"), **dict.fromkeys(VQ, "here"), EMBEDDINGS[1]: "disk"},
}


def drawn_edited_answered(model, processor, detokenizer):
    """Pictures and ids: a drawing, an edit, one with a mask, an answer of each pipeline, of `generate` and both."""
    parts = {"processor": processor, "detokenizer": detokenizer, "device": model.device}
    draw, edit = (kind(model, **parts, **FAST) for kind in (ArmTextToImagePipeline, ArmImageEditingPipeline))
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 30, 20))
    pictures = [
        *draw([PROMPT, "a cross"], batch_size=2, generator=seeds(0, 1), **SMALL),
        edit(picture(64, 48), INSTRUCTION, generator=seeds(0), **SMALL),
        edit(picture(64, 48), INSTRUCTION, mask, generator=seeds(0), **SMALL),
    ]
    chat = asked("what color?", picture(64, 32))
    request = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([chat], **request).to(model.device)
    written = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    arm = Arm(model, processor, detokenizer)
    return pictures, written.tolist(), arm.answer([picture(64, 32)], ["how many?"]), arm.tell("draw", max_new_tokens=4)


def assert_same_results(ours, theirs):
    assert_same(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]


@pytest.fixture(scope="module")
def processor(arm_folder):
    return ArmProcessor.from_pretrained(arm_folder)


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def plain(arm_folder):
    return ArmForCausalLM.from_pretrained(arm_folder)


@pytest.fixture
def detokenizer(arm_folder):
    return load_detokenizer(arm_folder)


@pytest.fixture(scope="module")
def expected(arm_folder, processor, device):
    model = ArmForCausalLM.from_pretrained(arm_folder).to(device)
    return drawn_edited_answered(model, processor, load_detokenizer(arm_folder))


# --- the rule --------------------------------------------------------------------------------------------------------


def test_a_module_computes_where_hooks_say_or_its_parameters_are():
    module = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    assert execution_device(module) == torch.device("cpu") and not is_placed(module)
    assert execution_device(nn.ReLU()) == torch.device("cpu")
    assert execution_device(module.to("meta")) == torch.device("meta")
    accelerate.hooks.add_hook_to_module(module[0], accelerate.hooks.AlignDevicesHook(torch.device("cpu")))
    assert stated_device(module[0]) == torch.device("cpu") and is_placed(module)
    assert execution_device(module) == torch.device("cpu")  # of the part that says where


def test_of_several_hooks_the_one_that_says_where_counts():
    module = nn.Linear(2, 2)
    accelerate.hooks.add_hook_to_module(module, accelerate.hooks.AlignDevicesHook(io_same_device=True))
    assert stated_device(module) is None and not is_placed(module)
    accelerate.cpu_offload(module, torch.device("cpu"))  # which appends to the first
    assert module.weight.is_meta and execution_device(module) == torch.device("cpu")


@needs_gpu
def test_devices_have_their_number_as_those_of_tensors_do():
    module = nn.Linear(2, 2)
    accelerate.cpu_offload(module, "cuda")
    assert execution_device(module) == torch.device("cuda", torch.cuda.current_device())


def test_methods_and_weights_read_from_outside_are_in_place_under_hooks():
    class Scale(nn.Linear):
        @under_hooks
        def scaled(self, value):
            return self.weight * value

    module, value = Scale(2, 2), torch.ones(2)
    expected = module.scaled(value)
    accelerate.cpu_offload(module, torch.device("cpu"))
    assert torch.equal(module.scaled(value), expected) and module.weight.is_meta
    with pytest.raises(ZeroDivisionError), hooked(module):
        assert torch.equal(module.weight * value, expected)
        raise ZeroDivisionError
    assert module.weight.is_meta


def test_models_compute_where_they_are_put(plain, device):
    accelerate.cpu_offload(plain, torch.device(device))
    assert plain.get_input_embeddings().weight.is_meta and plain.vq_model.up_norm.weight.is_meta
    assert plain.device.type == plain.model.device.type == plain.vq_model.device.type == device


# --- every way to place a model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_device_maps_split_it_anywhere(arm_folder, processor, detokenizer, device, expected, name, tmp_path):
    places = {part: place.replace("here", device) for part, place in MAPS[name].items()}
    model = ArmForCausalLM.from_pretrained(arm_folder, device_map=places, offload_folder=tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert_same_results(drawn_edited_answered(model, processor, detokenizer), expected)


def test_automatic_device_maps_split_it_where_memory_ends(
    arm_folder, processor, detokenizer, device, expected, tmp_path
):
    memory = {0: "4MB", "cpu": "4MB"} if device == "cuda" else {"cpu": "4MB"}
    model = ArmForCausalLM.from_pretrained(arm_folder, device_map="auto", max_memory=memory, offload_folder=tmp_path)
    assert len(set(model.hf_device_map.values())) > 1
    assert_same_results(drawn_edited_answered(model, processor, detokenizer), expected)


@pytest.mark.parametrize(
    "offload",
    [
        lambda model, device, folder: accelerate.cpu_offload(model, device),
        lambda model, device, folder: accelerate.cpu_offload(model, device, offload_buffers=True),
        lambda model, device, folder: accelerate.cpu_offload(model, device, preload_module_classes=["ArmVQModel"]),
        lambda model, device, folder: accelerate.cpu_offload(model, device, preload_module_classes=["ArmForCausalLM"]),
        lambda model, device, folder: accelerate.disk_offload(model, folder, device),
        lambda model, device, folder: accelerate.cpu_offload_with_hook(model, device),
        lambda model, device, folder: accelerate.cpu_offload(model.to(device).vq_model, device),
        lambda model, device, folder: accelerate.cpu_offload(model.to(device).model.layers, device),
        lambda model, device, folder: accelerate.dispatch_model(
            model, {"lm_head": "disk", "model": device.type}, main_device=device.type, offload_dir=folder
        ),
    ],
    ids=["cpu", "buffers", "tokenizer at once", "all at once", "disk", "moved", "tokenizer", "layers", "dispatched"],
)
def test_offloading_changes_nothing(plain, processor, detokenizer, device, expected, offload, tmp_path):
    offload(plain, torch.device(device), tmp_path)
    assert_same_results(drawn_edited_answered(plain, processor, detokenizer), expected)


@needs_gpu
@pytest.mark.parametrize("there", [["lm_head"], ["model.norm"], ["model.embed_tokens"], LAYERS[::2], VQ_PARTS[::2]])
def test_parts_on_two_devices_at_once(plain, processor, detokenizer, there):
    """With the CPU as main device nothing is offloaded to it: it computes."""

    def results():
        ids = mixed(plain.config)
        with torch.no_grad():
            scored = plain(ids, labels=ids, scoring_temperature=0.7)
            losses = plain(ids, labels=ids).loss, scored.log_probs
        return drawn_edited_answered(plain, processor, detokenizer), losses

    expected = results()
    places = dict.fromkeys([*TEXT, *VQ_PARTS, "model.vq_model.vision_model"], "cpu") | dict.fromkeys(there, "cuda:0")
    accelerate.dispatch_model(plain, places, main_device="cpu", force_hooks=True)
    assert {parameter.device.type for parameter in plain.parameters()} == {"cpu", "cuda"}
    ours = results()
    assert_same_results(ours[0], expected[0])
    assert_close(*(torch.cat([part.flatten() for part in each]) for each in (ours[1], expected[1])), atol=1e-4)


def test_tied_embeddings_may_lie_on_the_disk(tiny_arm_backbones, device, tmp_path):
    config = assemble(tiny_arm_backbones).config
    config.tie_word_embeddings = True
    ArmForCausalLM(config).save_pretrained(tmp_path / "model")
    plain = ArmForCausalLM.from_pretrained(tmp_path / "model").to(device)
    places = {**dict.fromkeys(OTHERS, "disk"), "model.layers": device, "model.vq_model": device}
    placed = ArmForCausalLM.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path)
    ids = torch.arange(1, 6)[None]
    drawn, expected = (
        model.generate(ids, generation_mode="image", image_grid=(2, 2), guidance_scale=1.0, do_sample=False)
        for model in (placed, plain)
    )
    assert drawn.tolist() == expected.tolist()


def test_losses_and_log_probabilities_are_those_of_the_plain_model(tiny_arm_backbones, device):
    model = assemble(tiny_arm_backbones).to(device)
    ids, accepted = mixed(model.config), []
    for offload in (lambda model: model, lambda model: accelerate.cpu_offload(model, torch.device(device))):
        offload(model)
        with torch.no_grad():
            scored = model(ids.to(model.device), labels=ids, scoring_temperature=0.7)
            accepted.append((model(ids.to(model.device), labels=ids).loss, scored.log_probs))
    assert_close(*(torch.cat([part.flatten().cpu() for part in each]) for each in accepted))


def test_the_tokenizer_alone_is_offloaded(arm_folder, detokenizer, device):
    model = ArmVQModel.from_pretrained(arm_folder, subfolder="vq_model")
    pictures = [*pixels(2, 32, 48), *pixels(1, 48, 48)]
    expected = model.encode(pictures)
    decoded = [model.decode_codes(codes[None]) for codes in expected.codes]
    rendered = detokenizer(decoded[0], generator=seeds(0), num_inference_steps=1).images
    accelerate.cpu_offload(model, torch.device(device))
    encoded = model.encode(pictures)
    for found in (encoded.codes, model.get_codes(pictures)):
        assert [codes.tolist() for codes in found] == [codes.tolist() for codes in expected.codes]
    for codes, z_q in zip(encoded.codes, decoded, strict=True):
        assert_close(model.decode_codes(codes[None].cpu()).cpu(), z_q, atol=1e-4)
    detokenizer.vq_model = model
    accelerate.cpu_offload(detokenizer.transformer, torch.device(device), offload_buffers=True)
    again = detokenizer(codes=expected.codes[0][None], generator=seeds(0), num_inference_steps=1).images
    assert_same(again, rendered)


# --- pipelines leave alone what is placed ----------------------------------------------------------------------------


def test_placed_models_are_not_moved(plain, processor, detokenizer):
    accelerate.cpu_offload(plain, torch.device("cpu"))
    parts = {"processor": processor, "detokenizer": detokenizer}
    for kind in (ArmTextToImagePipeline, ArmImageEditingPipeline):
        for device in (None, "cpu", -1, torch.device("cpu", 0)):
            assert kind(plain, **parts, device=device).model is plain
        with pytest.raises(ValueError, match="cannot be moved to meta: .* it computes on cpu. Leave device out"):
            kind(plain, **parts, device="meta")
    assert is_placed(plain) and plain.lm_head.weight.is_meta


def test_maps_of_one_place_are_heeded_too(arm_folder, processor, detokenizer, device):
    model = accelerate.dispatch_model(ArmForCausalLM.from_pretrained(arm_folder), {"": torch.device(device)})
    draw = ArmTextToImagePipeline(model, processor=processor, detokenizer=detokenizer)
    assert draw.device.type == detokenizer.device.type == device
    with pytest.raises(ValueError, match="cannot be moved to meta"):
        ArmTextToImagePipeline(model, processor=processor, detokenizer=detokenizer, device="meta")


def test_placed_detokenizers_are_not_moved(plain, processor, detokenizer, device, expected):
    accelerate.cpu_offload(detokenizer.transformer, torch.device(device), offload_buffers=True)
    plain.to(device)
    parts = {"processor": processor, "detokenizer": detokenizer, "device": device}
    drawn = ArmTextToImagePipeline(plain, **parts)([PROMPT], generator=seeds(0), **FAST, **SMALL)
    assert_same(drawn, expected[0][:1])
    assert detokenizer.transformer.null_condition.is_meta


def test_questions_are_answered_by_transformers_own_pipeline(arm_folder, processor, plain, tmp_path):
    chat, given = asked("what color?", picture(64, 32)), {"return_full_text": False, "max_new_tokens": 4}
    places = {"model.vq_model": "disk", **dict.fromkeys(TEXT, "cpu")}
    mapped = ArmForCausalLM.from_pretrained(arm_folder, device_map=places, offload_folder=tmp_path)
    assert list(mapped.hf_device_map.values())[-1] == "disk" and not hasattr(plain, "hf_device_map")
    placed = [(plain, "cpu"), (mapped, None), (accelerate.cpu_offload(deepcopy(plain), torch.device("cpu")), "cpu")]
    answers = [
        pipeline("image-text-to-text", model=model, processor=processor, device=device)(text=chat, **given)
        for model, device in placed
    ]
    assert answers[0] == answers[1] == answers[2]


# --- ArmPipeline -----------------------------------------------------------------------------------------------------


def drawn_twice_and_edited(pipe):
    pipe.set_progress_bar_config(disable=True)
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 30, 20))
    return [
        *pipe([PROMPT] * 2, generator=seeds(0, 1), batch_size=1, **FAST, **SMALL).images,
        *pipe(INSTRUCTION, picture(64, 48), mask, generator=seeds(2), **FAST, **SMALL).images,
        *pipe(PROMPT, generator=seeds(0), **FAST, **SMALL).images,
    ]


@pytest.fixture
def pipe(arm_folder):
    return ArmPipeline.from_pretrained(arm_folder)


def offload_as_sequential(pipe, device):
    """`enable_sequential_cpu_offload` as diffusers and ArmPipeline do it; diffusers' own asks for an accelerator."""
    if device == "cuda":
        return pipe.enable_sequential_cpu_offload()
    for part in (*pipe.components.values(), pipe.detokenizer.transformer):
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(part, torch.device(device), offload_buffers=len(part._parameters) > 0)


def offload_components(pipe, device):
    """What diffusers' `enable_sequential_cpu_offload` does with the components alone."""
    accelerate.cpu_offload(pipe.model, torch.device(device))


OFFLOADS = {
    "model": lambda pipe, device: pipe.enable_model_cpu_offload(device=device),
    "sequential": offload_as_sequential,
    "components": offload_components,
}


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_pipelines_draw_and_edit_the_same(pipe, device, offload):
    expected = drawn_twice_and_edited(pipe.to(device))
    OFFLOADS[offload](pipe.to("cpu"), device)
    for _ in range(2):
        assert_same(drawn_twice_and_edited(pipe), expected)
    pipe.remove_all_hooks()
    assert not is_placed(pipe.model) and not is_placed(pipe.detokenizer.transformer)
    assert_same(drawn_twice_and_edited(pipe.to(device)), expected)


@needs_gpu
def test_one_part_at_a_time_is_on_the_gpu(pipe, monkeypatch):
    pipe.enable_model_cpu_offload()
    seen, render = [], pipe.detokenizer.transformer._old_forward

    def rendering(*args, **kwargs):
        seen.append([next(part.parameters()).device.type for part in (pipe.model, pipe.detokenizer.transformer)])
        return render(*args, **kwargs)

    monkeypatch.setattr(pipe.detokenizer.transformer, "_old_forward", rendering)
    pipe(PROMPT, generator=seeds(0), **FAST, **SMALL)
    assert seen == [["cpu", "cuda"]]
    assert {part.device.type for part in pipe.model.parameters()} == {"cpu"}


def test_pipelines_take_device_maps(arm_folder, device, tmp_path):
    expected = drawn_twice_and_edited(ArmPipeline.from_pretrained(arm_folder).to(device))
    places = {**dict.fromkeys(TEXT, device), "lm_head": "disk", "model.vq_model": "disk"}
    pipe = ArmPipeline.from_pretrained(arm_folder, device_map=places, offload_folder=tmp_path)
    assert_same(drawn_twice_and_edited(pipe), expected)
    assert pipe.to(device) is pipe and pipe.to(device, torch.float32) is pipe
    for elsewhere in (["meta"], [torch.bfloat16], [device, torch.bfloat16]):
        with pytest.raises(ValueError, match="ArmForCausalLM cannot be moved to .* Load it without device_map"):
            pipe.to(*elsewhere)
    for offload in (pipe.remove_all_hooks, lambda: pipe.enable_model_cpu_offload(device=device)):
        with pytest.raises(ValueError, match="Load it without device_map to offload it"):
            offload()
    assert_same(drawn_twice_and_edited(pipe), expected)


def test_offloaded_parts_are_not_moved(pipe):
    accelerate.cpu_offload(pipe.detokenizer.transformer, torch.device("cpu"), offload_buffers=True)
    assert pipe.to("cpu") is pipe
    with pytest.raises(ValueError, match=r"ArmPixelTransformer cannot be moved to meta: .* call remove_all_hooks\(\)"):
        pipe.to("meta")
    pipe.remove_all_hooks()
    assert pipe.to("meta").detokenizer.device.type == "meta"
