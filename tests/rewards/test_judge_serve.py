"""VLMJudge against `transformers serve`, an OpenAI-compatible server that is not ours, and vision-language models made
here: one that calls red pictures good and blue ones poor, and one that babbles.
"""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from transformers_arm.rewards.judge import RUBRICS, JudgeError, VLMJudge
from transformers_arm.training.backbones import new_tokenizer

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "openai"))), reason="needs transformers[serving]"
)

ANSWERS = {
    "red": '{"objects": 8, "attributes": 6, "relations": 10}',
    "blue": '{"objects": 3, "attributes": 0, "relations": null}',
}
PROMPT = "a red picture"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image_pad|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def picture(color):
    return Image.new("RGB", (32, 32), color)


def _messages(color):
    """What the judge will send, in the processor's words."""
    text = [RUBRICS["text_to_image"].instructions, f"Request: {PROMPT}", "Result:"]
    system, request, label = ({"type": "text", "text": part} for part in text)
    image = {"type": "image", "image": picture(color)}
    return [{"role": "system", "content": [system]}, {"role": "user", "content": [request, label, image]}]


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Folders of a tiny Llava, before and after it learnt its two answers."""
    tokenizer = new_tokenizer([RUBRICS["text_to_image"].instructions, *ANSWERS.values()], 1000)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
    )
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ends = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    folder = tmp_path_factory.mktemp("judges")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(**size, image_size=16, patch_size=8),
                text_config=Qwen2Config(**size, **ends, num_key_value_heads=2, vocab_size=len(tokenizer)),
                image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            )
        )
        for name in ("untrained", "trained"):
            if name == "trained":
                _learn(model, processor)
            model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("untrained", "trained")}


def _learn(model, processor):
    """Fits the answers to the two pictures, so that they come out greedily."""
    form = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    asked = processor.apply_chat_template([_messages(color) for color in ANSWERS], **form)
    end = "<|im_end|>"
    answers = processor.tokenizer([answer + end for answer in ANSWERS.values()], padding=True, return_tensors="pt")
    input_ids = torch.cat([asked["input_ids"], answers["input_ids"]], dim=1)
    labels = input_ids.where(input_ids != processor.tokenizer.pad_token_id, -100)
    labels[:, : asked["input_ids"].shape[1]] = -100
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    loss = torch.tensor(torch.inf)
    for _ in range(300):
        loss = model(input_ids=input_ids, pixel_values=asked["pixel_values"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            return
    raise AssertionError(f"The judge has not learnt its answers: loss {loss:.3f} after 300 steps.")


def _is_up(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = "from transformers.cli.transformers import main; main()"
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", command, *arguments], stdout=file, stderr=file, env=environment
        )
    try:
        end = time.monotonic() + 120
        while not _is_up(port):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def test_a_served_model_scores_what_it_sees(judges, base_url, tmp_path):
    judge = VLMJudge(judges["trained"], base_url, cache_dir=tmp_path, input_price=1.0, output_price=1.0)
    rows = {"prompts": [PROMPT] * 2, "images": [picture("red"), picture("blue")]}
    rows |= {"source_images": [[], []], "task": ["text_to_image"] * 2}
    assert asyncio.run(judge(**rows)) == [pytest.approx(0.8), pytest.approx(0.15)]
    assert judge.requests == 2 and judge.failures == 0
    assert judge.prompt_tokens > 200 and judge.completion_tokens > 20 and judge.cost > 0
    assert asyncio.run(judge(**rows)) == [pytest.approx(0.8), pytest.approx(0.15)]
    assert judge.requests == 2 and judge.cache_hits == 2


@pytest.mark.parametrize(("name", "max_tokens"), [("untrained", 8), ("trained", 1)])
def test_a_served_model_that_babbles_fails(judges, base_url, caplog, name, max_tokens):
    sampling = {"temperature": 0.0, "max_tokens": max_tokens}
    judge = VLMJudge(judges[name], base_url, sampling=sampling, retries=1, backoff=0.01)
    rows = {"prompts": [PROMPT], "images": [picture("red")], "source_images": [[]], "task": ["text_to_image"]}
    with pytest.raises(JudgeError, match="1 of the last 1 judgements failed"):
        asyncio.run(judge(**rows))
    assert judge.criteria_scores == [None] and judge.failures == 1
    assert "Asked for JSON alone, too: Not one JSON object" in caplog.text
