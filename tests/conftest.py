"""Settings that must stand before Hugging Face libraries are imported (tests reach no network), and tiny backbones."""

import os
import runpy
import shutil
import signal
import threading
from pathlib import Path

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)

pytest.register_assert_rewrite("generation_requests")

# Need downloads: `make test-transformers` and `make test-app` name the folders themselves.
collect_ignore = ["transformers_suite", "app"]

ROOT = Path(__file__).parents[1]

# What is started in the background of a shell ignores Ctrl-C, and so would all that the tests start and interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory):
    """Folders of an untrained SiglipModel (patch 16, 48 px) and Qwen2ForCausalLM, 32 wide, with tokenizers and an
    image processor: keywords of `ArmVQForPreTraining.from_backbones`. Treat them as read-only.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipConfig, SiglipModel

    from transformers_arm.image_processing_arm import ArmImageProcessor
    from transformers_arm.training.backbones import new_tokenizer
    from transformers_arm.worlds.shapes.pictures import ShapesDataset

    captions = ShapesDataset(200, batch_size=1, seed=0)
    tokenizer = new_tokenizer((captions[index]["caption"] for index in range(200)), 340)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "projection_size": 32}
    ends = {name: tokenizer.pad_token_id for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    folder = tmp_path_factory.mktemp("backbones")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        siglip = SiglipModel(
            SiglipConfig(vision_config=size | {"image_size": 48, "patch_size": 16}, text_config=size | text | ends)
        )
        siglip.logit_scale.data.fill_(2.0)
        siglip.logit_bias.data.fill_(-3.0)
        qwen2 = Qwen2ForCausalLM(
            Qwen2Config(**size, **ends, num_key_value_heads=1, vocab_size=len(tokenizer) + 8, tie_word_embeddings=True)
        )
    for model, name in ((siglip, "vision"), (qwen2, "captioner")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    ArmImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder / "vision")
    return {name: str(folder / name) for name in ("vision", "captioner")}


@pytest.fixture(scope="session")
def tiny_arm_backbones(tiny_backbones, tmp_path_factory):
    """Folders of an untrained Qwen2ForCausalLM with its tokenizer, and of an ArmVQModel (patch 16, 1,024 codes) with
    its image processor: keywords of `ArmForCausalLM.from_backbones`. Treat them as read-only.
    """
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from transformers_arm import ArmImageProcessor, ArmVQConfig, ArmVQModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones["captioner"])
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    rows = {"vocab_size": len(tokenizer) + 271, "pad_token_id": tokenizer.pad_token_id}  # as many are free in Qwen2.5
    vision = size | {"image_size": 48, "patch_size": 16, "num_hidden_layers": 1}
    folder = tmp_path_factory.mktemp("arm_backbones")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        qwen2 = Qwen2ForCausalLM(Qwen2Config(**size, **rows, num_key_value_heads=2, initializer_range=0.2))
        vq = ArmVQModel(ArmVQConfig(vision_config=vision, num_projection_layers=1, fsq_levels=[2] * 10)).train()
        for _ in range(3):  # its batch norm has to see pictures, or codes hardly differ
            vq(torch.rand(4, 3, 48, 48) * 2 - 1)
    qwen2.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    vq.save_pretrained(folder / "vq")
    ArmImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder / "vq")
    return {name: str(folder / name) for name in ("text", "vq")}


@pytest.fixture(scope="session")
def few_codes_backbones(tiny_arm_backbones, tmp_path_factory):
    """`tiny_arm_backbones` with 16 codes, so that distributions can be counted."""
    import torch

    from transformers_arm import ArmVQConfig, ArmVQModel

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("vq")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = ArmVQConfig(
            vision_config=vision | {"image_size": 48, "patch_size": 16}, num_projection_layers=1, fsq_levels=[2] * 4
        )
        vq = ArmVQModel(config).train()
        for _ in range(3):  # its batch norm has to see pictures, or codes hardly differ
            vq(torch.rand(4, 3, 48, 48) * 2 - 1)
    vq.save_pretrained(folder)
    return tiny_arm_backbones | {"vq": str(folder)}


@pytest.fixture(scope="session")
def few_codes_arm(few_codes_backbones):
    """An untrained ARM with 16 codes. Treat it as read-only."""
    import torch

    from transformers_arm import ArmForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ArmForCausalLM.from_backbones(**few_codes_backbones).eval()


@pytest.fixture(scope="session")
def arm_folder(tmp_path_factory):
    """A complete ARM folder: arm-tiny's tokenizer, detokenizer and backbones around an untrained ARM. Read-only."""
    import torch

    from transformers_arm import ArmForCausalLM, ArmProcessor

    shipped = ROOT / "checkpoints" / "arm-tiny"
    folder = tmp_path_factory.mktemp("arm") / "arm-untrained"
    for part in ("vq_model", "detokenizer", "backbones"):
        shutil.copytree(shipped / part, folder / part)
    backbones = {"text": str(shipped / "backbones" / "qwen2"), "vq": str(shipped / "vq_model")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ArmForCausalLM.from_backbones(**backbones, dtype=torch.float32)
    model.generation_config.max_new_tokens = 16
    model.save_pretrained(folder)
    ArmProcessor.from_backbones(**backbones).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A running `HubServer` (see tests/hub_server.py): for fresh processes through `hub.run`, and for this process,
    which reaches nothing else and is logged in as nobody; `monkeypatch.setenv("HF_TOKEN", hub.token)` logs in.
    """
    from huggingface_hub import constants
    from transformers.utils import hub as transformers_hub

    server = runpy.run_path(str(ROOT / "tests" / "hub_server.py"))["HubServer"]
    with server(tmp_path_factory.mktemp("hub")) as hub, pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(hub.folder / "own_cache"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(hub.folder / "no_token"))
        patch.setattr(transformers_hub, "_hf_api", None)  # its client keeps the address that it saw first
        yield hub


def fast_pipeline(task: str, folder: str):
    """A pipeline whose pictures are rendered in one step, without the renderer's guidance."""
    from transformers import pipeline

    import transformers_arm  # noqa: F401  registers the pipelines

    return pipeline(task, model=folder, device="cpu", num_inference_steps=1, decoder_guidance_scale=1.0)


@pytest.fixture(scope="module")
def draw(arm_folder):
    return fast_pipeline("text-to-image", arm_folder)


@pytest.fixture(scope="module")
def edit(arm_folder):
    return fast_pipeline("image-editing", arm_folder)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """A TorchScript file called as FID's Inception network is; its three features are the means of the colors."""
    import torch

    class MeanColors(torch.nn.Module):
        def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            means = images.float().mean((2, 3))
            return means if return_features else means.softmax(-1)

    file = tmp_path_factory.mktemp("inception") / "colors.pt"
    torch.jit.script(MeanColors()).save(str(file))
    return str(file)


@pytest.fixture
def metric_cache(tmp_path, monkeypatch):
    """Keeps what `evaluate` copies and writes inside the test's folder."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    return str(tmp_path)
