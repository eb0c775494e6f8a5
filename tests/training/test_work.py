"""How much work a batch is: as much as torch counts, and what hardware could do."""

import pytest
import torch
from peft import get_peft_model
from tiny_renderers import FAMILIES, new_renderer
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, SiglipTextConfig, SiglipVisionConfig

from transformers_arm import ArmForCausalLM, ArmVQConfig, ArmVQForPreTraining
from transformers_arm.sizes.adapters import lora_config
from transformers_arm.training.detokenizer import DetokenizerTraining
from transformers_arm.training.renderer import LatentTraining, transformer_flops, with_adapters
from transformers_arm.training.work import peak_flops, work_of

SIZE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def arm(arm_folder):
    return ArmForCausalLM.from_pretrained(arm_folder, dtype="float32", attn_implementation="eager").train()


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer in training, wide enough for what is left out to be little."""
    config = ArmVQConfig(
        vision_config=SiglipVisionConfig(**SIZE, image_size=48, patch_size=16).to_dict(),
        text_config=SiglipTextConfig(**SIZE, vocab_size=100, max_position_embeddings=32, projection_size=128),
        captioner_config=Qwen2Config(**SIZE, num_key_value_heads=1, vocab_size=200),
        **{"num_projection_layers": 3, "fsq_levels": [2] * 6, "pixel_regression_share": 0.5},
        context_loss_weight=1.0,
        **{"pixel_hidden_size": 64, "pixel_num_layers": 3, "pixel_num_heads": 2},
    )
    torch.manual_seed(0)
    return ArmVQForPreTraining._from_config(config, attn_implementation="eager").train()


def counted(loss_of):
    """The operations that torch counts in a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        loss_of().backward()
    return counter.get_total_flops()


def batch_of(config, text=60):
    image = [*config.image_opening(2, 2), *(config.visual_token_offset + code for code in range(4))]
    ids = torch.tensor([[5] * text + image + [config.vision_end_token_id] + [7] * 20])
    return {"input_ids": ids, "labels": ids.masked_fill(ids == config.vision_end_token_id, -100)}


def whole_attention(config, length):
    """What eager attention multiplies of a row beyond what its tokens see: it masks the other half."""
    return 3 * 4 * config.num_hidden_layers * config.hidden_size * (length**2 - length * (length + 1) // 2)


def test_the_language_model_needs_what_torch_counts(arm):
    batch, config = batch_of(arm.config), arm.config
    tokens, flops = work_of(arm, batch)
    assert tokens == batch["input_ids"].numel()
    expected = counted(lambda: arm(**batch).loss)
    assert flops + whole_attention(config, tokens) == pytest.approx(expected, rel=0.05)


def test_packed_documents_see_themselves_alone_and_padding_is_no_work(arm):
    one, other = batch_of(arm.config, 40), batch_of(arm.config, 60)
    apart = [work_of(arm, each) for each in (one, other)]
    ids, labels = (torch.cat([each[name] for each in (one, other)], 1) for name in ("input_ids", "labels"))
    labels[0, one["input_ids"].shape[1]] = -100  # nothing tells how a document begins
    lengths = [each["input_ids"].shape[1] for each in (one, other)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    row = {"input_ids": ids, "labels": labels, "position_ids": positions}
    assert work_of(arm, row) == tuple(map(sum, zip(*apart, strict=True)))
    del row["position_ids"]
    assert work_of(arm, row).flops > 1.01 * sum(each.flops for each in apart)
    padded = {name: torch.nn.functional.pad(value, (0, 30), value=-100) for name, value in one.items()}
    mask = (padded["input_ids"] >= 0).long()
    assert work_of(arm, padded | {"attention_mask": mask}) == apart[0]


def test_frozen_weights_have_no_gradients_of_their_own(arm_folder, arm):
    adapted = get_peft_model(ArmForCausalLM.from_pretrained(arm_folder), lora_config(arm, r=2))
    batch = batch_of(arm.config)
    assert 3 * work_of(adapted, batch).flops == pytest.approx(2 * work_of(arm, batch).flops)


def test_the_tokenizer_and_the_detokenizer_need_what_torch_counts(tokenizer):
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.rand(4, 3, 64, 96, generator=generator) * 2 - 1
    texts = {"input_ids": torch.ones(4, 32, dtype=torch.long), "caption_ids": torch.ones(4, 12, dtype=torch.long)}
    batch = {"pixel_values": pixel_values, **texts}
    assert work_of(tokenizer, batch).tokens == 4 * 4 * 6
    assert work_of(tokenizer, batch).flops == pytest.approx(counted(lambda: tokenizer(**batch).loss), rel=0.06)
    renderer = DetokenizerTraining(tokenizer, 0.5, 0.1).train()
    expected = counted(lambda: renderer(pixel_values)["loss"])
    assert work_of(renderer, {"pixel_values": pixel_values}).flops == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_renderer_needs_what_torch_counts(family, tokenizer):
    """Of pictures, of latents, and where its transformer learns by adapters alone."""
    renderer = new_renderer(family, 128)
    model = LatentTraining(renderer, tokenizer.vq_model).train()
    pictures = torch.rand(2, 3, 64, 96) * 2 - 1
    latents, codes = model.encode(pictures)
    batch = {"latents": latents, "codes": codes}
    tokens, flops = work_of(model, batch)
    assert tokens == codes.numel()
    assert flops == pytest.approx(counted(lambda: model(**batch)["loss"]), rel=0.12)  # the connector is much of it
    with FlopCounterMode(display=False) as encoding:
        tokenizer.vq_model.encode(pictures, output_z_q=False)
    of_pictures = work_of(model, {"pixel_values": pictures})
    assert of_pictures == (tokens, pytest.approx(flops + encoding.get_total_flops(), rel=0.06))
    forward = transformer_flops(renderer, tuple(latents.shape[-2:]), tuple(codes.shape[1:]))
    adapted = work_of(with_adapters(model, {"r": 2}), batch)
    assert adapted.flops == flops - len(codes) * forward  # no gradients of its weights


def test_other_models_have_no_work_that_is_known():
    assert work_of(torch.nn.Linear(2, 2), {"input_ids": torch.ones(1, 2)}) is None


def test_nor_has_a_batch_that_does_not_tell_its_tokens(arm):
    assert work_of(arm, {"inputs_embeds": torch.ones(1, 2, arm.config.hidden_size)}) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        *(("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12)),
        *(("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA L40", None)),
        *(("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("Some Other GPU", None)),
    ],
)
def test_the_peak_is_that_of_known_gpus_or_as_stated(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)  # there may be none here
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cuda"), 2.5) == peak_flops(torch.device("cpu"), 2.5) == 2.5e12
    assert peak_flops(torch.device("cpu")) is None
    with pytest.raises(ValueError, match="peak_tflops is 0; it must be above 0"):
        peak_flops(torch.device("cuda"), 0)


def test_padding_that_fills_a_row_is_no_work(arm):
    batch = batch_of(arm.config)
    length = batch["input_ids"].shape[1]
    row = batch | {"position_ids": torch.arange(length)[None], "sources": torch.zeros(1, length, dtype=torch.long)}
    ends = {"input_ids": 0, "labels": -100, "sources": -1}
    filled = {name: torch.nn.functional.pad(row[name], (0, 30), value=value) for name, value in ends.items()}
    filled["position_ids"] = torch.cat([row["position_ids"], torch.arange(30)[None]], 1)
    assert work_of(arm, filled) == work_of(arm, row) == work_of(arm, batch)
