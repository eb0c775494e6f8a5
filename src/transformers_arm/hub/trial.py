"""Whether what is going to be published does what it is for, tried as who pulls it would use it: an ARM, by itself or
under its adapter, understands a chat, draws, edits and answers; a tokenizer encodes and decodes.

Everything is as small as it can be: pictures of one patch, one step of the detokenizer, a few words. Knows nothing
about cards, files and the Hub.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_WEIGHTS
from PIL import Image
from transformers import ImageTextToTextPipeline
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_WEIGHTS

from ..configuration_arm import ArmConfig
from ..detokenizer_arm import ArmDetokenizer
from ..image_processing_arm import ArmImageProcessor
from ..modeling_arm import ArmForCausalLM
from ..modeling_arm_vq import ArmVQModel
from ..pipeline_arm import ArmImageEditingPipeline, ArmTextToImagePipeline
from ..processing_arm import ArmProcessor
from ..renderers_arm import DETOKENIZER_FOLDER, load_detokenizer
from ..written_text_arm import written_text_encoder
from .weights import tensor_shapes

SYSTEM, WRITTEN, ANSWER, QUESTION = "be brief", "what is <|im_end|> here?", "a square", "and there?"
ANSWER_TOKENS = 4


@contextmanager
def trying(what: str, folder: Path) -> Iterator[None]:
    """Makes whatever goes wrong a ValueError that says what failed."""
    try:
        yield
    except Exception as error:  # of any kind: whatever is broken raises its own
        raise ValueError(
            f"{what} fails with {folder.name}, as it would for who downloads it: {error}. Mend the folder, or save it "
            "again."
        ) from error


def left_in_groups(membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that this process may still take in each control group (version 2) with a bound, as a container's is.

    What files hold there in memory counts as free: it is given up when it is needed.
    """
    lines = membership.read_text().splitlines() if membership.is_file() else []
    place = groups / "".join(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    left = []
    for group in (place, *place.parents):
        bound, taken, parts = (group / f"memory.{name}" for name in ("max", "current", "stat"))
        if bound.is_file() and taken.is_file() and parts.is_file() and bound.read_text().strip() != "max":
            cached = dict(line.split() for line in parts.read_text().splitlines()).get("file", 0)
            left.append(int(bound.read_text()) - int(taken.read_text()) + int(cached))
    return left


def available_memory() -> int:
    """Bytes that can be taken without swapping, and without being killed for them."""
    import psutil  # accelerate brings it, with which this is published

    return min([psutil.virtual_memory().available, *left_in_groups()])


def memory_of(folder: Path) -> int:
    """Bytes of the weights that a trial loads from an ARM's folder."""
    dtype = ArmConfig.from_pretrained(folder).dtype or torch.float32
    width = dtype.itemsize if isinstance(dtype, torch.dtype) else 4
    transformer = folder / DETOKENIZER_FOLDER / "transformer"
    parts = [(tensor_shapes(folder, TRANSFORMERS_WEIGHTS), width), (tensor_shapes(transformer, DIFFUSERS_WEIGHTS), 4)]
    return sum(prod(shape) * size for shapes, size in parts for shape in shapes.values())


def check_memory(folder: Path) -> None:
    """Raises ValueError if a folder's weights don't fit this machine's memory."""
    needed, available = memory_of(folder), available_memory()
    if needed > available:
        raise ValueError(
            f"Trying what is published takes the {needed / 1e9:.1f} GB of {folder.name}'s weights, and "
            f"{available / 1e9:.1f} GB of memory are free; push from a larger machine, or leave the trial out with "
            "--no-trial (trial=False)."
        )


def placed(ids: Sequence[int], piece: Sequence[int], start: int) -> int:
    """Where `piece` ends in `ids` that has it at `start` or later; -1 if it has not."""
    ends = range(start + len(piece), len(ids) + 1)
    return next((end for end in ends if list(ids[end - len(piece) : end]) == list(piece)), -1)


def check_chat(processor: ArmProcessor, config: ArmConfig) -> None:
    """Raises ValueError if a chat does not become ids that an ARM was made for.

    Pictures must stand between their marks, and what people write as it is written, all in the order of the chat.
    """
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "shape_token_offset")
    for name in (*names, "visual_token_offset"):
        if getattr(processor, name) != getattr(config, name):
            raise ValueError(
                f"{name} is {getattr(processor, name)} to the processor, {getattr(config, name)} to the model"
            )
    patch, encode = config.vq_config.patch_size, written_text_encoder(processor.tokenizer)
    if processor.image_processor.patch_size != patch:
        raise ValueError(
            f"patches have {processor.image_processor.patch_size} px to the processor, {patch} to the model"
        )
    image = {"type": "image", "image": Image.new("RGB", (patch, patch), "red")}
    chat = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": [image, {"type": "text", "text": WRITTEN}]},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}, image]},
    ]
    given = {"tokenize": True, "return_dict": True, "processor_kwargs": {"size": {"height": patch, "width": patch}}}
    closed, asked = (
        processor.apply_chat_template(chat, add_generation_prompt=add, **given)["input_ids"][0]
        for add in (False, True)
    )
    picture = [*config.image_opening(1, 1), config.image_token_id, config.vision_end_token_id]
    written = [encode(text) for text in (SYSTEM, WRITTEN, ANSWER, QUESTION)]
    expected = {
        "the system's text": written[0],
        "the picture": picture,
        "the user's text": written[1],
        "the assistant's text": written[2],
        "the second question": written[3],
        "the second picture": picture,
    }
    end = 0
    for what, piece in expected.items():
        if (end := placed(asked, piece, end)) < 0:
            raise ValueError(f"{what} is not where it belongs in the ids of a chat")
    if asked.count(config.image_token_id) != 2:
        raise ValueError(f"two pictures take {asked.count(config.image_token_id)} placeholders in the ids of a chat")
    if asked[: len(closed)] != closed or len(asked) == len(closed):
        raise ValueError("add_generation_prompt adds nothing to a chat, so that nobody is asked to go on")


def check_numbers(model: ArmForCausalLM, inputs: dict) -> None:
    """Raises ValueError if a model's logits say nothing."""
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].float()
    if not logits.isfinite().all():
        raise ValueError(f"{int((~logits.isfinite()).sum())} of its {logits.numel()} logits are NaN or infinite")
    if len(logits[logits > logits.min()].unique()) < 2:
        raise ValueError("its logits are all the same, whatever is asked")


def check_rendering(model: ArmForCausalLM, detokenizer: ArmDetokenizer) -> None:
    """Raises ValueError if a detokenizer makes no pixels of a picture token."""
    z_q = model.vq_model.decode_codes(torch.zeros(1, 1, 1, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    images = detokenizer(z_q, num_inference_steps=1, generator=generator, output_type="pt").images
    patch = model.config.vq_config.patch_size
    if images.shape[-2:] != (patch, patch) or not images.isfinite().all():
        raise ValueError(f"a token of {patch} px becomes {list(images.shape[-2:])} px, or pixels that are no numbers")


def try_model(
    model: ArmForCausalLM, processor: ArmProcessor, detokenizer: ArmDetokenizer | None, folder: Path
) -> None:
    """Raises ValueError if a model does not understand a chat, draw, edit and answer.

    Without a detokenizer it answers only. `folder` is what the message names.
    """
    model.eval()
    picture, patch = None, model.config.vq_config.patch_size
    with trying("Rendering a chat", folder):
        check_chat(processor, model.config)
    blank = Image.new("RGB", (patch, patch), "red")
    if detokenizer is not None:
        parts = {"processor": processor, "detokenizer": detokenizer, "device": "cpu"}
        least = {"image_grid": (1, 1), "num_inference_steps": 1}
        with trying("Rendering a token", folder):
            check_rendering(model, detokenizer)
        with trying("Drawing", folder):
            generator = torch.Generator().manual_seed(0)
            picture = ArmTextToImagePipeline(model, **parts)(ANSWER, generator=generator, **least)
        with trying("Editing", folder):
            ArmImageEditingPipeline(model, **parts)(picture, ANSWER, generator=generator, **least)
    with trying("Answering", folder):
        content = [{"type": "image", "image": picture or blank}, {"type": "text", "text": QUESTION}]
        chat = [{"role": "user", "content": content}]
        given = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        check_numbers(model, processor.apply_chat_template(chat, **given))
        ask = ImageTextToTextPipeline(model, processor=processor, device="cpu")
        ask(text=chat, max_new_tokens=ANSWER_TOKENS, return_full_text=False)


def try_arm(folder: Path, *, adapter: Path | None = None) -> None:
    """Raises ValueError if an ARM's folder, under an adapter if there is one, does not do what an ARM does.

    A base without a detokenizer, which an adapter may have, answers only.
    """
    check_memory(folder)
    what = adapter or folder
    with trying("Loading", what):
        model, processor = ArmForCausalLM.from_pretrained(folder), ArmProcessor.from_pretrained(folder)
        detokenizer = None
        if adapter is None or (folder / DETOKENIZER_FOLDER).is_dir():
            detokenizer = load_detokenizer(str(folder), model.dtype)
        if adapter is not None:
            model.load_adapter(str(adapter))
    try_model(model, processor, detokenizer, what)


def try_tokenizer(folder: Path) -> None:
    """Raises ValueError if a tokenizer's folder does not turn a picture into codes and those into `z_q`."""
    with trying("Encoding a picture", folder), torch.no_grad():
        model, processor = ArmVQModel.from_pretrained(folder).eval(), ArmImageProcessor.from_pretrained(folder)
        patch = model.config.patch_size
        inputs = processor(Image.new("RGB", (patch, patch), "red"), size={"height": patch, "width": patch})
        encoded = model.encode(torch.as_tensor(inputs["pixel_values"][0])[None].to(model.dtype))
    with trying("Decoding a picture's code", folder), torch.no_grad():
        z_q = model.decode_codes(encoded.codes)
        if not z_q.isfinite().all() or not torch.allclose(z_q.float(), encoded.z_q.float(), atol=1e-2, rtol=1e-2):
            raise ValueError("its codes stand for something else than what they were made of")
