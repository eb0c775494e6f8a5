"""What a user does with an ARM: loads it by every Auto class, draws, edits and asks; in this process or a fresh one.

Knows `transformers_arm` only when it is asked to use it: otherwise all code comes with the folder or repo.
"""

import hashlib
import importlib
import sys

import torch
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
from transformers.dynamic_module_utils import get_class_from_dynamic_module

PROMPT, INSTRUCTION, QUESTION = "a red circle left of a blue square", "make the red circle green", "what color is it?"


def pipelines(name: str, revision: str | None, package: bool) -> tuple:
    """The pipelines that draw, edit and answer, and diffusers' way to draw, of a folder or repo."""
    if package:
        from transformers_arm import ArmPipeline

        tasks = ("text-to-image", "image-editing", "image-text-to-text")
        draw, edit, ask = (pipeline(task, model=name, revision=revision) for task in tasks)
        return draw, edit, ask, ArmPipeline.from_pretrained(name, revision=revision)
    model, processor = (
        auto.from_pretrained(name, revision=revision, trust_remote_code=True)
        for auto in (AutoModelForMultimodalLM, AutoProcessor)
    )
    classes = ("pipeline_arm.ArmTextToImagePipeline", "pipeline_arm.ArmImageEditingPipeline")
    drawing, editing = (get_class_from_dynamic_module(each, name, revision=revision) for each in classes)
    diffusers = get_class_from_dynamic_module("diffusers_pipeline_arm.ArmPipeline", name, revision=revision)
    return (
        drawing(model, processor=processor),
        editing(model, processor=processor),
        pipeline("image-text-to-text", model=name, revision=revision, trust_remote_code=True),
        diffusers.from_pretrained(name, revision=revision, trust_remote_code=True),
    )


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def weights(module: torch.nn.Module) -> str:
    """A digest of a model's weights."""
    return digest(*(value.numpy().tobytes() for value in module.state_dict().values()))


def report(name: str, revision: str | None = None, package: bool = True) -> dict:
    """All that loading a folder or repo leads to: classes, digests of weights and pictures, an answer.

    `code` says which `REVISION` stands in the modules that were run; None are the package's. `untrusted` is what comes
    of it where remote code is not to be run.
    """
    if package:
        importlib.import_module("transformers_arm")  # registers the classes
    given = {"revision": revision, "trust_remote_code": not package}
    autos = (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
        AutoTokenizer,
    )
    try:
        untrusted = type(AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)).__name__
    except ValueError as error:
        untrusted = str(error)[:60]
    parts = [auto.from_pretrained(name, **given) for auto in autos]
    parts += [auto.from_pretrained(name, subfolder="vq_model", **given) for auto in (AutoModel, AutoImageProcessor)]
    draw, edit, ask, diffusers = pipelines(name, revision, package)
    picture = draw(PROMPT, generator=torch.Generator().manual_seed(0))
    again = diffusers(prompt=PROMPT, generator=torch.Generator().manual_seed(0)).images[0]
    edited = edit(picture, INSTRUCTION, generator=torch.Generator().manual_seed(0))
    question = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    answers = ask(text=[{"role": "user", "content": question}], return_full_text=False)
    own = [part for part in parts if not isinstance(part, AutoTokenizer)]
    own += [draw, edit, diffusers, draw.model, draw.processor, draw.detokenizer, draw.detokenizer.transformer]
    modules = [sys.modules[type(part).__module__] for part in own]
    return {
        "untrusted": untrusted,
        "classes": [type(part).__name__ for part in parts],
        "code": sorted({str(getattr(module, "REVISION", None)) for module in modules if "_arm" in module.__name__}),
        "weights": weights(draw.model),
        "detokenizer": weights(draw.detokenizer.transformer),
        "template": draw.processor.chat_template,
        "drawn": digest(picture.tobytes()),
        "drawn by diffusers' names": digest(again.tobytes()),
        "edited": digest(edited.tobytes()),
        "answer": answers[0]["generated_text"],
    }
