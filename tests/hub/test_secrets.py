"""Keys of services are found in every kind of file that is published, and never told."""

import json
import time

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from transformers_arm.hub.secrets import PATTERNS, check_secrets, key_in

HTTPS = "https:" + "//"  # apart: these are no links
MIXED = "a1B2c3D4" * 10
HEX = "0123456789abcdef" * 4
JWT = f"eyJ{MIXED[:17]}.eyJ{MIXED[:40]}.{MIXED[:40]}"
KEYS = {
    "the Hub": f"hf_{MIXED[:34]}",
    "OpenAI": f"sk-{MIXED[:48]}",
    "OpenAI ": f"sk-proj-{MIXED[:40]}-{MIXED[:20]}",
    "Anthropic": f"sk-ant-api03-{MIXED[:60]}",
    "AWS": "AKIA" + "Z2X3" * 4,
    "a service": f'"aws_secret_access_key": "{MIXED[:38]}/+"',
    "Google": f"AIza{MIXED[:35]}",
    "GitHub": f"ghp_{MIXED[:36]}",
    "GitHub ": f"gho_{MIXED[:36]}",
    "GitHub  ": f"github_pat_{MIXED[:22]}_{MIXED[:59]}",
    "GitLab": f"glpat-{MIXED[:20]}",
    "Slack": f"xoxb-{HEX[:10]}-{MIXED[:24]}",
    "Weights & Biases": f"WANDB_API_KEY={HEX[:40]}",
    "Weights & Biases ": f"wandb login {HEX[:40]}",
    "a cryptographic identity": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "a cryptographic identity ": "-----BEGIN PRIVATE KEY-----",
    "an address": f"{HTTPS}user:pass1word@example.com/a",
    "a web service": JWT,
    "Stripe": f"sk_live_{MIXED[:24]}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{MIXED[:60]}",
    "a service ": f"AccountKey={MIXED[:60]}",
    "a service  ": f"Authorization: Bearer {HEX[:32]}",
    "a service   ": f"MISTRAL_API_KEY={MIXED[:32]}",
    "a service    ": f"export NEPTUNE_API_TOKEN='eyJ{MIXED[:80]}'",
    "a service     ": f'{{"username":"me","key":"{HEX[:32]}"}}',
    "a service      ": f"machine api.example.com login user password {HEX[:40]}",
    "a service       ": f"{HTTPS}example.com/v1?api_key={MIXED[:30]}",
    "a service        ": f"{HTTPS}lab.blob.core.windows.net/a/b?se=2026&sp=r&sig={MIXED[:20]}%2B{MIXED[:20]}%3D",
    "Together": f"tgp_v1_{MIXED[:43]}",
    "Fireworks": f"fw_{MIXED[:24]}",
    "Databricks": f"dapi{HEX[:32]}",
    "SendGrid": f"SG.{MIXED[:22]}.{MIXED[:43]}",
    "Docker": f"dckr_pat_{MIXED[:27]}",
    "DigitalOcean": f"dop_v1_{HEX[:64]}",
    "Discord": f"{HTTPS}discord.com/api/webhooks/{'123456789' * 2}/{MIXED[:60]}",
}


@pytest.mark.parametrize("service", KEYS)
def test_a_key_is_found_and_named_with_its_line_but_not_told(tmp_path, service):
    key = KEYS[service]
    files = {"README.md": f"# A\n\nsay `{key}`.\n", "results/a.json": json.dumps({"a": [1, key]}, indent=1)}
    for line, (name, text) in zip((3, 4), files.items(), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        with pytest.raises(
            ValueError, match=f"{name} holds what looks like a key to {service.strip()}.*line {line}"
        ) as error:
            check_secrets({name: tmp_path / name})
        assert not any(part in str(error.value) for part in (MIXED[:8], HEX[:8], "pass1word", "Z2X3"))


@pytest.mark.parametrize(
    "text",
    ["hf_hub_download(repo_id)", "my_hf_" + MIXED[:34], "task-" + MIXED[:20], "sk-learn", "https://example.com:80/a@b",
     "see user:name@host", f"commit {HEX[:40]}", f"{HTTPS}wandb.ai/lab/run at {HEX[:40]}", "AKIAH", "eyJ.eyJ.",
     "api_key=os.environ['MISTRAL_API_KEY_NUMBER_2_OF_THE_LAB']", "Authorization: Bearer $TOKEN",
     "API_KEY=your-key-goes-here-and-nowhere-else", "?key=value", "Passwords of 24 characters and more",
     "SG.1 and SG.2", f"token {MIXED[:40]}", f"the key {HEX[:40]}", f'"sha256": "{HEX}"',
     "fw_informationtheoretically",
     "ghp_example", "http://127.0.0.1:8000/v1", "BEGIN PUBLIC KEY", "-----BEGIN CERTIFICATE-----"],
)  # fmt: skip
def test_what_only_looks_like_a_key_is_none(text):
    assert key_in(text.encode()) is None


def with_text(file, key):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"draw {key}", zip=True)  # compressed: its bytes show nothing
    Image.new("RGB", (8, 8)).save(file, pnginfo=info)


def with_exif(file, key):
    exif = Image.Exif()
    exif[0x010E] = key
    Image.new("RGB", (8, 8)).save(file, exif=exif)


def with_utf16(file, key):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + key.encode("utf-16-le")
    Image.new("RGB", (8, 8)).save(file, exif=exif)


def with_comment(file, key):
    Image.new("RGB", (8, 8)).save(file, comment=key)


def with_metadata(file, key):
    save_file({"a": torch.zeros(1)}, file, metadata={"format": "pt", "by": key})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", with_text),
        ("a.png", with_exif),
        ("a.jpg", with_exif),
        ("a.webp", with_exif),
        ("a.jpg", with_utf16),
        ("a.jpg", with_comment),
        ("a.gif", with_comment),
        ("model.safetensors", with_metadata),
    ],
)
def test_what_is_written_beside_pixels_and_weights_is_searched(tmp_path, name, write):
    write(tmp_path / name, "a drawing")
    check_secrets({name: tmp_path / name})
    write(tmp_path / name, KEYS["the Hub"])
    with pytest.raises(ValueError, match=f"{name} holds what looks like a key to the Hub, in "):
        check_secrets({name: tmp_path / name})


@pytest.mark.parametrize(
    "text",
    [
        "eyJ",
        "sk-",
        "://a:",
        "-----BEGIN ",
        "wandb",
        "hf_",
        "aws_secret_access_key",
        "xapp-",
        "api_key=",
        "bearer ",
        "?sig=a",
        "SG.a",
        "SG." + "a" * 64 + ".",
        "password=" + "a" * 70,
        "fw_" + "a" * 30,
    ],
)
def test_the_search_takes_time_that_grows_with_the_text_alone(text):
    """What begins as keys do, over and over, is what a slow pattern would return to."""
    content = text.encode() * (600_000 // len(text))
    start = time.process_time()
    assert key_in(content) is None
    assert time.process_time() - start < 5


def test_every_pattern_is_shown_to_find_a_key():
    found = {
        service for service, pattern in PATTERNS.items() if any(pattern.search(key.encode()) for key in KEYS.values())
    }
    few = {"npm", "Replicate", "Groq", "xAI", "NVIDIA", "Perplexity", "Telegram"}
    assert found | few >= PATTERNS.keys()
    rest = ["npm_", "r8_", "gsk_", "xai-", "nvapi-", "pplx-"]
    for begins in rest:
        assert key_in(f"'{begins}{MIXED[:60]}'".encode()), begins
    assert key_in(f"{HTTPS}api.telegram.org/bot123456789:{MIXED[:35]}/send".encode())[0] == "Telegram"
