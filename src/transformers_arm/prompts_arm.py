"""Prompts of images, checked and prepared: what stands before the first code, and what the whole draw needs to know.

Knows nothing about how codes are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from transformers import CompileConfig

from .configuration_arm import MAX_GRID_SIDE, ArmConfig
from .decoding_arm import Prefix, compiled_layers
from .sampling_arm import ImageSampling, check_generators, uniforms

# What ArmProcessor's chat template writes before and after what a request says: nothing between is what guidance
# compares with.
EMPTY_PROMPT = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def checked_batch_size(batch_size: int) -> int:
    """The number of requests that are drawn together; raises ValueError if it is none."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size {batch_size!r} must be a whole number of requests, 1 or more.")
    return int(batch_size)


def stack_left_padded(prompts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of ids and mask [B, T_i] -> ids and mask [sum of B, longest T], padded on the left."""
    longest = max(ids.shape[1] for ids, _ in prompts)
    padded = [
        [torch.nn.functional.pad(part, (longest - part.shape[1], 0)) for part in (ids, mask)] for ids, mask in prompts
    ]
    return tuple(torch.cat(parts) for parts in zip(*padded, strict=True))


def padded_left(
    ids: torch.LongTensor, mask: torch.Tensor | None, pad_token_id: int | None, name: str
) -> tuple[torch.LongTensor, torch.Tensor]:
    """Prompts [B, T] padded on any side -> the same padded on the left, and their mask: positions come from the mask.

    Args:
        mask: 1 where a prompt is, 0 where it is padded; None says that nothing is.
        pad_token_id: what padding commonly is.
        name: of the prompts, for errors.

    Raises:
        ValueError: the mask has another shape, or there is none and padding stands at an end of a prompt.
    """
    if mask is None:
        if pad_token_id is not None and ids.numel() and (ids[:, [0, -1]] == pad_token_id).any():
            raise ValueError(
                f"{name} begins or ends with the padding {pad_token_id} in some rows, and there is no attention mask "
                "to say what is a prompt; pass the mask that the processor gave with it."
            )
        return ids, torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise ValueError(f"The attention mask of {name} {list(mask.shape)} must be {list(ids.shape)}, as they.")
    order = mask.bool().long().argsort(dim=1, stable=True)  # of each row the padding, then the prompt
    return ids.gather(1, order.to(ids.device)), mask.gather(1, order)


@dataclass
class ImageArguments:
    """What `generate(generation_mode="image")` takes beside prompts and `ImageSampling`.

    Args:
        image_grid: (H, W), each 1..128 tokens; left out, that of the prompts' last picture, or else the tokenizer's.
        attention_mask: of the prompts [B, T], where some are padded.
        negative_prompt_ids, negative_prompt_attention_mask: the prompts without their conditions [B, T'], unless
            `guidance_scale` is 1 (and `image_guidance_scale`, in editing).
        image_prompt_ids, image_prompt_attention_mask: the prompts with their images and without their text [B, T''];
            makes it editing, with three branches. Without either pair, both are made with the `empty_prompt_ids` of
            the model's generation config, where it has them.
        edit_mask: bool [B, H, W], where the model draws; elsewhere the tokens of a picture of each prompt, which must
            have this grid, stand in the result. The model draws on from its own draws: those tokens were
            read from the whole source, so they tell of what has to change, and it would be drawn again.
        edit_source: which picture of a prompt that is, by its place in a list of them: the last, -1, unless stated.
        num_return_sequences: images a prompt, next to each other in the result.
        generator: of the sampling, on any device: one, or a list with one for each image, which makes each
            independent of its batch.
        streamer: its `put` gets the opening, each row of image tokens [B, W] as it is done, and the closing.
        return_dict_in_generate: returns `GenerateDecoderOnlyOutput` with `sequences`.
        output_scores: and with `scores`: for each of the H*W steps, what was sampled from, over the codes alone: fp32
            [B * num_return_sequences, codebook size].
        compile_config: transformers' `CompileConfig`, of which backend, mode and options count: compiles the step of
            decoding. That takes most of a minute at arm-7b's size, once for each batch size and each 256 tokens of
            length, and pays where tens of calls follow.

    Raises:
        ValueError: the grid or the number of sequences is outside its bounds.
    """

    image_grid: tuple[int, int] | None = None
    attention_mask: torch.Tensor | None = None
    negative_prompt_ids: torch.LongTensor | None = None
    negative_prompt_attention_mask: torch.Tensor | None = None
    image_prompt_ids: torch.LongTensor | None = None
    image_prompt_attention_mask: torch.Tensor | None = None
    edit_mask: torch.BoolTensor | None = None
    edit_source: int = -1
    num_return_sequences: int = 1
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    streamer: object = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    compile_config: CompileConfig | None = None

    def __post_init__(self):
        if not isinstance(self.image_grid, Sequence) or len(self.image_grid) != 2:
            raise ValueError(f"generation_mode='image' needs image_grid=(H, W), in tokens, not {self.image_grid!r}.")
        height, width = self.image_grid
        if not all(isinstance(side, Integral) and 1 <= side <= MAX_GRID_SIDE for side in self.image_grid):
            raise ValueError(
                f"Grid {height}x{width} is outside what shape tokens can state (1..{MAX_GRID_SIDE} a side, whole "
                "numbers of tokens)."
            )
        self.image_grid = int(height), int(width)
        if not isinstance(self.num_return_sequences, Integral) or self.num_return_sequences < 1:
            raise ValueError(f"num_return_sequences {self.num_return_sequences} must be a whole number, 1 or more.")
        if self.compile_config is not None and not isinstance(self.compile_config, CompileConfig):
            raise ValueError(
                f"compile_config must be a transformers.CompileConfig, not {self.compile_config!r}; CompileConfig() "
                "compiles with torch's defaults."
            )


@dataclass
class ImageRequest:
    """Images that are ready to be drawn.

    Args:
        prompts: [B, T], as they stand in the result.
        opening: ids that open each image.
        prefix: the prompts of all branches, opened.
        uniform: [images, H*W], what the codes are chosen by.
        kept: [images, H*W], tokens that stand in the result whatever is drawn, and -1; None if there are none.
    """

    arguments: ImageArguments
    sampling: ImageSampling
    prompts: torch.LongTensor
    opening: list[int]
    prefix: Prefix
    uniform: torch.Tensor
    kept: torch.LongTensor | None

    @property
    def steps(self) -> int:
        """Codes that have to be drawn: after the last that counts none are."""
        if self.kept is None or self.arguments.output_scores:
            return self.uniform.shape[1]
        drawn = (self.kept < 0).any(0).nonzero()
        return int(drawn[-1]) + 1 if len(drawn) else 0


def image_request(
    model,
    input_ids: torch.LongTensor,
    arguments: ImageArguments,
    sampling: ImageSampling,
    image_tokens: torch.LongTensor | None = None,
) -> ImageRequest:
    """Puts the prompts of all branches of guidance together, and draws what codes will be chosen by.

    Args:
        model: an `ArmForCausalLM`.
        input_ids: prompts [B, T], up to where the image opens, for which `check_image_request`.
        image_tokens: what stands in place of the placeholders of `input_ids` [n], for those of `image_prompt_ids`.

    Raises:
        ValueError: masks of prompts, pictures or an edit mask that do not go with them.
    """
    branches = branches_of(model, input_ids, arguments, sampling)
    if image_tokens is not None and "image_prompt_ids" in branches:
        ids, mask = branches["image_prompt_ids"]
        ids = model.model.place_image_tokens(ids, image_tokens, "The pictures of input_ids")
        branches["image_prompt_ids"] = ids, mask
    branches = [tuple(part.to(model.device) for part in branch) for branch in branches.values()]
    (height, width), copies, prompts = arguments.image_grid, arguments.num_return_sequences, branches[0][0]
    kept = None
    if arguments.edit_mask is not None:
        kept = kept_tokens(model.config, prompts, arguments).repeat_interleave(copies, 0)
    uniform = uniforms(len(prompts) * copies, height * width, arguments.generator, prompts.device)
    opening = model.config.image_opening(height, width)
    ids, mask = stack_left_padded(branches)
    ids = torch.cat([ids, ids.new_tensor(opening).expand(len(ids), 3)], 1)
    prefix = Prefix(ids, torch.nn.functional.pad(mask, (0, 3), value=1), len(branches), copies)
    return ImageRequest(arguments, sampling, prompts, opening, prefix, uniform, kept)


def branches_of(
    model, input_ids: torch.LongTensor, arguments: ImageArguments, sampling: ImageSampling
) -> dict[str, tuple[torch.LongTensor, torch.Tensor]]:
    """Ids and mask of each branch that guidance needs, padded on the left: the condition, the image alone (editing),
    nothing.
    """
    editing = arguments.image_prompt_ids is not None
    branches = {"input_ids": (input_ids, arguments.attention_mask)}
    if guiding(arguments, sampling):
        if editing:
            branches["image_prompt_ids"] = arguments.image_prompt_ids, arguments.image_prompt_attention_mask
        branches["negative_prompt_ids"] = arguments.negative_prompt_ids, arguments.negative_prompt_attention_mask
    for name, (ids, _) in branches.items():
        if ids.ndim != 2 or len(ids) != len(input_ids):
            raise ValueError(
                f"{name} {list(ids.shape)} must be [{len(input_ids)}, T]: one prompt for each in input_ids."
            )
    pad = model.generation_config.pad_token_id
    return {name: padded_left(*branch, pad, name) for name, branch in branches.items()}


def default_grid(config: ArmConfig, input_ids: torch.LongTensor) -> tuple[int, int]:
    """H, W of an image for which a call states none: those of the last picture of its prompts [B, T], which it edits,
    or else `config.default_grid`.

    Raises:
        ValueError: the prompts show pictures of several grids there.
    """
    grids = set()
    for ids in input_ids:
        places = config.states_width(ids[1:]).nonzero()[-1:, 0].tolist()
        grids |= {config.stated_grid(ids[: place + 2]) for place in places}
    if len(grids) > 1:
        grids = ", ".join(f"{height}x{width}" for height, width in sorted(grids))
        raise ValueError(
            f"The last pictures of the prompts have the grids {grids}; state image_grid, or draw one by one."
        )
    return grids.pop() if grids else config.default_grid


def branches_without_text(config: ArmConfig, input_ids: torch.LongTensor, empty: list[list[int]]) -> dict:
    """The other branches of guidance of any prompts [B, T], as `ImageArguments` takes them: nothing, and if prompts
    show pictures, these alone.

    Args:
        empty: ids before and after what a request says, `EMPTY_PROMPT`.

    Raises:
        ValueError: some prompts show pictures and some none.
    """
    before, after = empty
    shown = [whole_pictures(config, ids) for ids in input_ids.tolist()]
    if any(shown) and not all(shown):
        raise ValueError(
            f"{sum(map(bool, shown))} of {len(shown)} prompts show pictures and the others none, but guidance goes by "
            "that; draw the two kinds in two calls."
        )
    contents = {"negative": [[] for _ in shown]} | ({"image": shown} if any(shown) else {})
    branches = {}
    for name, rows in contents.items():
        rows = [input_ids.new_tensor([[*before, *row, *after]]) for row in rows]
        ids, mask = stack_left_padded([(row, torch.ones_like(row)) for row in rows])
        branches |= {f"{name}_prompt_ids": ids, f"{name}_prompt_attention_mask": mask}
    return branches


def whole_pictures(config: ArmConfig, ids: list[int]) -> list[int]:
    """Those of the ids that open, are and close pictures, or stand for them."""
    shown, opened = [], False
    for token in ids:
        opened |= token == config.vision_start_token_id
        if opened:
            shown.append(token)
        opened &= token != config.vision_end_token_id
    return shown


def guiding(arguments: ImageArguments, sampling: ImageSampling) -> list[str]:
    """The scales that guide, with their values."""
    scales = ["guidance_scale", "image_guidance_scale"][: 1 if arguments.image_prompt_ids is None else 2]
    return [f"{name} {getattr(sampling, name)}" for name in scales if getattr(sampling, name) != 1]


def check_image_request(
    model, input_ids: torch.LongTensor | None, arguments: ImageArguments, sampling: ImageSampling
) -> None:
    """Refuses what `image_request` would, before pictures are read: prompts have placeholders still.

    Raises:
        ValueError: prompts, masks or generators that do not go together, or a way of compiling that torch has not.
        TypeError: another kind of generator.
    """
    if input_ids is None or input_ids.ndim != 2 or not input_ids.numel():
        raise ValueError("generation_mode='image' needs input_ids [B, T] of at least one prompt and one token.")
    if (scales := guiding(arguments, sampling)) and arguments.negative_prompt_ids is None:
        off = "guidance_scale=1" + (" and image_guidance_scale=1" if arguments.image_prompt_ids is not None else "")
        raise ValueError(
            f"{' and '.join(scales)} needs negative_prompt_ids; ArmProcessor.image_generation_inputs makes them, and "
            f"{off} does without."
        )
    prompts, _ = branches_of(model, input_ids, arguments, sampling)["input_ids"]
    if arguments.edit_mask is not None:
        pictures = prompts.masked_fill(prompts == model.config.image_token_id, model.config.visual_token_offset)
        kept_tokens(model.config, pictures, arguments)
    check_generators(len(input_ids) * arguments.num_return_sequences, arguments.generator)
    if arguments.compile_config is not None:
        try:
            compiled_layers(arguments.compile_config)
        except Exception as error:  # torch has a class for each
            raise ValueError(f"compile_config names what torch has not: {error}") from error


def kept_tokens(config: ArmConfig, input_ids: torch.LongTensor, arguments: ImageArguments) -> torch.LongTensor:
    """[B, H*W]: tokens of a picture of `input_ids` [B, T] where `edit_mask` keeps them, -1 elsewhere.

    Raises:
        ValueError: a mask of another kind or shape, or a prompt without that picture or with one of another grid.
    """
    edit_mask, source, (height, width) = arguments.edit_mask, arguments.edit_source, arguments.image_grid
    expected = [len(input_ids), height, width]
    if not isinstance(edit_mask, torch.Tensor) or edit_mask.dtype != torch.bool:
        kind = getattr(edit_mask, "dtype", type(edit_mask).__name__)
        raise ValueError(f"edit_mask must be a bool tensor {expected}, not {kind}; True is where the model draws.")
    if list(edit_mask.shape) != expected:
        raise ValueError(f"edit_mask {list(edit_mask.shape)} must be {expected}: the grid of each prompt's image.")
    opening = config.image_opening(height, width)
    rows = []
    for ids in input_ids:
        starts = (ids == config.vision_start_token_id).nonzero()[:, 0].tolist()
        start = starts[source] if -len(starts) <= source < len(starts) else len(ids)
        picture = ids[start : start + len(opening) + height * width]
        states, tokens = picture[: len(opening)].tolist(), picture[len(opening) :]
        if states != opening or not (tokens >= config.visual_token_offset).all():
            which = "the last picture" if source == -1 else f"picture {source}"
            raise ValueError(
                f"edit_mask keeps tokens of {which} of each prompt, but not every prompt of input_ids has one of grid "
                f"{height}x{width}; give each its source at that size."
            )
        rows.append(tokens)
    return torch.stack(rows).masked_fill(edit_mask.flatten(1).to(input_ids.device), -1)
