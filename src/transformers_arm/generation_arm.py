"""How ARM writes: text, images of a given grid, and both interleaved.

Three rules make every image valid: after a shape only image tokens can follow (the model's routed head), an image
closes after exactly H*W of them, and in text mode none opens. Knows nothing about chat templates or pixels.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from math import inf
from numbers import Integral

import torch
from transformers import GenerationConfig, GenerationMixin, StaticCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .configuration_arm import MAX_GRID_SIDE
from .grammar_arm import ImageGrammarLogitsProcessor, TextGrammarLogitsProcessor, ends_in_an_image
from .loading_arm import under_hooks

GENERATION_MODES = ("text", "image", "interleaved")

# Arguments that only generation_mode="image" knows.
IMAGE_ARGUMENTS = (
    "image_grid",
    "image_guidance_scale",
    "image_prompt_ids",
    "image_prompt_attention_mask",
    "edit_mask",
    "generator",
)

# How images are sampled unless `generation_config.image_generation`, of edits `image_editing`, or the call says
# otherwise (paper section 6).
IMAGE_GENERATION = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "guidance_scale": 1.5,
    "image_guidance_scale": 1.25,
}


# What a GenerationConfig holds beside settings.
CONFIG_SECTIONS = ("image_generation", "image_editing", "transformers_version", "_from_model_config")


def guided_logits(
    logits: torch.Tensor, guidance_scale: float = 1.0, image_guidance_scale: float = 1.0
) -> torch.Tensor:
    """Classifier-free guidance over branches (paper section 6; the order of the branches is ours).

    Args:
        logits: [branches, B, V]; the branches are (condition), (condition, nothing) or (condition, image without
            text, nothing).
        guidance_scale: how far from the branch without text.
        image_guidance_scale: how far the branch with the image stands from the one with nothing.

    Returns:
        [B, V].
    """
    if len(logits) == 1:
        return logits[0]
    if len(logits) == 2:
        conditional, nothing = logits
        return nothing + guidance_scale * (conditional - nothing)
    conditional, image, nothing = logits
    return nothing + image_guidance_scale * (image - nothing) + guidance_scale * (conditional - image)


def sample_tokens(
    scores: torch.Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None
) -> torch.LongTensor:
    """Scores [B, V] -> one sampled row index each, [B]; one generator for all, or one a row, on any device."""
    probabilities = scores.softmax(-1)
    one_a_row = isinstance(generator, Sequence)
    rows = zip(probabilities, generator, strict=True) if one_a_row else [(probabilities, generator)]
    drawn = [torch.multinomial(row.to(each.device) if each else row, 1, generator=each) for row, each in rows]
    return torch.cat([index.flatten() for index in drawn]).to(scores.device)


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


@contextmanager
def evaluating(model: torch.nn.Module):
    """Without dropout, autocast (caches have the weights' dtype) and gradient checkpointing, which forgets caches;
    afterwards each module is as it was.

    A model that many threads share is in evaluation mode, and nothing is set then: one in training is its trainer's.
    """
    training = [module for module in model.modules() if module.training]
    if training:  # setting what is set already takes milliseconds, of each call
        model.eval()
    try:
        with torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


class ArmGenerationMixin(GenerationMixin):
    """`generate` in three modes for a model with ARM's routed head."""

    @torch.no_grad()
    @under_hooks
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        generation_mode: str = "text",
        pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
        **kwargs,
    ) -> torch.LongTensor | GenerateDecoderOnlyOutput:
        """Continues prompts with text, with one image, or with whatever the model chooses.

        Args:
            inputs: (or `input_ids`) prompts [B, T], with `attention_mask` [B, T] if some are padded: on either side,
                for prompts are moved to the right first, and results have them there.
            generation_mode: `"text"`: transformers' `generate`, with all its arguments, that opens no image;
                `"interleaved"`: the same, and the model may open images and choose their shapes; one sampling for
                text and images, without guidance;
                `"image"`: one image of `image_grid` a prompt; see `_generate_image` for its arguments.
            pixel_values: pictures for the placeholders of the prompts; see `ArmModel.fill_image_tokens`.
            kwargs: what transformers' `generate` takes.

        Returns:
            Sequences [B * num_return_sequences, T + new tokens].

        Raises:
            ValueError: an unknown mode, or an argument outside its bounds.
            TypeError: an argument that the mode does not take.
        """
        if generation_mode not in GENERATION_MODES:
            raise ValueError(f"Unknown generation_mode {generation_mode!r}; use one of {', '.join(GENERATION_MODES)}.")
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        image_tokens, pad = None, self.generation_config.pad_token_id
        if kwargs.get("attention_mask") is not None and input_ids is not None and input_ids.ndim == 2:
            input_ids, kwargs["attention_mask"] = padded_left(input_ids, kwargs["attention_mask"], pad, "input_ids")
        if pixel_values is not None:
            placeholders, input_ids = input_ids, self.model.fill_image_tokens(input_ids, pixel_values)
            image_tokens = input_ids[placeholders == self.config.image_token_id]
        without = {"input_ids": input_ids, "negative_prompt_ids": kwargs.get("negative_prompt_ids")}
        if pixel_values is None:
            without["image_prompt_ids"] = kwargs.get("image_prompt_ids")
        for name, ids in without.items():
            if ids is not None and (ids == self.config.image_token_id).any():
                raise ValueError(
                    f"{name} hold placeholders (id {self.config.image_token_id}) but there are no pixel_values for "
                    "them; pass those that the processor gave, which are of input_ids and image_prompt_ids."
                )
        if generation_mode == "image":
            if logits_processor:
                raise TypeError("generation_mode='image' takes no logits_processor: it samples the image rows alone.")
            with evaluating(self):
                return self._generate_image(input_ids, generation_config, image_tokens=image_tokens, **kwargs)
        for name in IMAGE_ARGUMENTS:
            if kwargs.pop(name, None) is not None:
                raise TypeError(f"{name} belongs to generation_mode='image', not to {generation_mode!r}.")
        if generation_mode == "text" and not (input_ids is not None and ends_in_an_image(self.config, input_ids)):
            grammar = TextGrammarLogitsProcessor(self.config)
            # Every token to come is text, and so is what follows it. (Of what a custom loop writes, nobody knows.)
            kwargs |= {"text_follows": True} if kwargs.get("custom_generate") is None else {}
        else:
            grammar = ImageGrammarLogitsProcessor(self.config, images=generation_mode == "interleaved")
        processors = LogitsProcessorList([*(logits_processor or []), grammar])
        with evaluating(self):
            return super().generate(input_ids, generation_config, processors, **kwargs)

    def _get_logits_processor(self, generation_config: GenerationConfig, *args, **kwargs) -> LogitsProcessorList:
        """Here stands whatever must hold of what is written, for every way of transformers' to write calls this: the
        grammar of `generate`'s mode, counting down to the final `max_length`, or else that text opens no image.
        """
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        if not any(isinstance(each, TextGrammarLogitsProcessor | ImageGrammarLogitsProcessor) for each in processors):
            return LogitsProcessorList([TextGrammarLogitsProcessor(self.config), *processors])
        length = generation_config.max_length
        return LogitsProcessorList(
            each.until(length) if isinstance(each, ImageGrammarLogitsProcessor) else each for each in processors
        )

    def _get_candidate_generator(self, *args, model_kwargs: dict, **kwargs):
        """As in transformers, but for `text_follows`: an assistant finds out by itself, or is no ARM at all."""
        shared = {name: value for name, value in model_kwargs.items() if name != "text_follows"}
        return super()._get_candidate_generator(*args, model_kwargs=shared, **kwargs)

    def _generate_image(
        self,
        input_ids: torch.LongTensor,
        generation_config: GenerationConfig | None = None,
        *,
        image_grid: tuple[int, int] | None = None,
        attention_mask: torch.Tensor | None = None,
        negative_prompt_ids: torch.LongTensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        image_prompt_ids: torch.LongTensor | None = None,
        image_prompt_attention_mask: torch.Tensor | None = None,
        image_tokens: torch.LongTensor | None = None,
        edit_mask: torch.BoolTensor | None = None,
        num_return_sequences: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        streamer=None,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        **sampling,
    ) -> torch.LongTensor | GenerateDecoderOnlyOutput:
        """One image a prompt: all branches in one batch with one static cache, exactly H*W steps.

        Args:
            input_ids, attention_mask: prompts [B, T], up to where the image opens.
            image_grid: (H, W), each 1..128 tokens.
            negative_prompt_ids, negative_prompt_attention_mask: the prompts without their conditions [B, T'];
                needed unless `guidance_scale` is 1 (and `image_guidance_scale`, in editing).
            image_prompt_ids, image_prompt_attention_mask: the prompts with their images and without their text
                [B, T'']; makes it editing, with three branches.
            image_tokens: what `generate` put in place of the placeholders of `input_ids` [n], for those of
                `image_prompt_ids`.
            edit_mask: bool [B, H, W], where the model draws; elsewhere the tokens of the last picture of `input_ids`,
                which must have this grid, stand in the result. The model draws on from its own draws: those tokens
                were read from the whole source, so they tell of what has to change, and it would be drawn again.
            num_return_sequences: images a prompt, next to each other in the result.
            generator: of the sampling: one, or a list with one for each image, which makes each independent of its
                batch.
            streamer: its `put` gets the opening, each row of image tokens [B, W] as it is done, and the closing.
            return_dict_in_generate: returns `GenerateDecoderOnlyOutput` with `sequences`.
            output_scores: and with `scores`: for each of the H*W steps, what was sampled from, over the codes alone:
                fp32 [B * num_return_sequences, codebook size].
            sampling: `do_sample`, `temperature`, `top_k` (0: off), `top_p`, `guidance_scale`, `image_guidance_scale`;
                what is not given is that of `image_generation` in `generation_config`, then in the model's; for
                editing, `image_editing` beside it says what differs.

        Returns:
            [B * num_return_sequences, T + 3 + H*W + 1]: prompt, opening, image tokens, closing.
        """
        settings = self._image_settings(generation_config, sampling, editing=image_prompt_ids is not None)
        warpers = self._image_warpers(**settings)
        height, width = self._checked_grid(image_grid)
        prompts = self._branches(
            settings,
            (input_ids, attention_mask),
            (image_prompt_ids, image_prompt_attention_mask),
            (negative_prompt_ids, negative_prompt_attention_mask),
            image_tokens,
        )
        kept = None if edit_mask is None else self._kept_tokens(prompts[0][0], edit_mask, height, width)
        if not isinstance(num_return_sequences, Integral) or num_return_sequences < 1:
            raise ValueError(f"num_return_sequences {num_return_sequences} must be a whole number, 1 or more.")
        images = len(input_ids) * num_return_sequences
        if isinstance(generator, Sequence) and len(generator) != images:
            raise ValueError(f"Got {len(generator)} generators for {images} images; give one for all or one an image.")
        ids, mask = stack_left_padded(prompts)
        ids, mask = (part.repeat_interleave(num_return_sequences, 0) for part in (ids, mask))
        opening = ids.new_tensor(self.config.image_opening(height, width)).expand(len(ids), 3)
        count = height * width
        step_ids = torch.cat([ids, opening], 1)
        mask = torch.nn.functional.pad(mask, (0, 3 + count), value=1)
        if kept is not None:
            kept = kept.repeat_interleave(num_return_sequences, 0)
        cache = StaticCache(config=self.config, max_cache_len=step_ids.shape[1] + count)
        # Stated, because the cache would count on from its own length, which is where the first layer computes.
        positions = torch.arange(step_ids.shape[1] + count, device=step_ids.device)[None]
        if streamer is not None:
            streamer.put(opening[:images].cpu())

        tokens, all_scores, length = [], [], step_ids.shape[1]
        offset, end = self.config.visual_token_offset, self.config.vocab_size
        for step in range(count):
            hidden_states = self.model(
                step_ids,
                attention_mask=mask[:, : length + step],
                position_ids=positions[:, length + step - step_ids.shape[1] : length + step],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            logits = self.routed_head(hidden_states, offset, end).float().view(len(prompts), images, -1)
            scores = guided_logits(logits, settings["guidance_scale"], settings["image_guidance_scale"])
            scores = warpers(None, scores)  # none of them when the likeliest code is taken
            codes = sample_tokens(scores, generator) if settings["do_sample"] else scores.argmax(-1)
            if output_scores:
                all_scores.append(scores)
            drawn = (codes + offset).to(step_ids.device)
            tokens.append(drawn if kept is None else torch.where(kept[:, step] < 0, drawn, kept[:, step]))
            step_ids = drawn.repeat(len(prompts))[:, None]
            if streamer is not None and (step + 1) % width == 0:
                streamer.put(torch.stack(tokens[-width:], 1).cpu())
        closing = opening.new_full((images, 1), self.config.vision_end_token_id)
        if streamer is not None:
            streamer.put(closing.cpu())
            streamer.end()
        prompt = ids[:images, ids.shape[1] - input_ids.shape[1] :]
        sequences = torch.cat([prompt, opening[:images], torch.stack(tokens, 1), closing], 1)
        if not return_dict_in_generate:
            return sequences
        return GenerateDecoderOnlyOutput(sequences=sequences, scores=tuple(all_scores) if output_scores else None)

    def _image_settings(self, generation_config: GenerationConfig | None, given: dict, *, editing: bool) -> dict:
        """`IMAGE_GENERATION`, replaced by the model's settings, the call's configuration and the call's arguments.

        Of the call's configuration, plain fields that are neither transformers' default nor the model's count, and its
        sections before them where they are not the model's.

        Raises:
            TypeError: a setting that images do not take; nothing that a call states is passed over.
        """
        names = ("image_generation", "image_editing") if editing else ("image_generation",)
        settings, stated = dict(IMAGE_GENERATION), {}
        for name in names:
            settings |= getattr(self.generation_config, name, None) or {}
        if generation_config is not None:
            defaults = GenerationConfig().to_dict()
            for name, value in generation_config.to_dict().items():
                ours = getattr(self.generation_config, name, None)
                if value not in (None, defaults.get(name), ours) and name not in CONFIG_SECTIONS:
                    stated[name] = value
            for name in names:
                section = getattr(generation_config, name, None) or {}
                if section != getattr(self.generation_config, name, None):
                    stated |= section
        if unknown := {*settings, *stated, *given} - {*IMAGE_GENERATION}:
            raise TypeError(
                f"generation_mode='image' takes no {', '.join(sorted(unknown))}; it takes "
                f"{', '.join(IMAGE_GENERATION)}."
            )
        return settings | stated | {name: value for name, value in given.items() if value is not None}

    @staticmethod
    def _image_warpers(*, do_sample, temperature, top_k, top_p, guidance_scale, image_guidance_scale):
        """transformers' own warpers over the image rows; raises ValueError for values outside their bounds."""
        for name, scale in (("guidance_scale", guidance_scale), ("image_guidance_scale", image_guidance_scale)):
            if not 0 <= scale < inf:
                raise ValueError(f"{name} {scale} must be a finite number, 0 or more; 1 turns guidance off.")
        warpers = LogitsProcessorList()
        if not do_sample:
            return warpers
        if not 0 < temperature < inf:
            raise ValueError(
                f"temperature {temperature} must be a finite number above 0; do_sample=False takes the likeliest code."
            )
        if not isinstance(top_k, Integral) or top_k < 0:
            raise ValueError(f"top_k {top_k} must be a whole number, 0 (which keeps all codes) or more.")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p {top_p} must be above 0 and at most 1 (which keeps all codes).")
        if temperature != 1:
            warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            warpers.append(TopKLogitsWarper(int(top_k)))
        if top_p != 1:
            warpers.append(TopPLogitsWarper(float(top_p)))
        return warpers

    @staticmethod
    def _checked_grid(image_grid) -> tuple[int, int]:
        if not isinstance(image_grid, Sequence) or len(image_grid) != 2:
            raise ValueError(f"generation_mode='image' needs image_grid=(H, W), in tokens, not {image_grid!r}.")
        height, width = image_grid
        if not all(isinstance(side, Integral) and 1 <= side <= MAX_GRID_SIDE for side in image_grid):
            raise ValueError(
                f"Grid {height}x{width} is outside what shape tokens can state (1..{MAX_GRID_SIDE} a side, whole "
                "numbers of tokens)."
            )
        return int(height), int(width)

    def _kept_tokens(self, input_ids, edit_mask, height: int, width: int) -> torch.LongTensor:
        """[B, H*W]: tokens of the last picture of `input_ids` [B, T] where `edit_mask` keeps them, -1 elsewhere."""
        expected = [len(input_ids), height, width]
        if not isinstance(edit_mask, torch.Tensor) or edit_mask.dtype != torch.bool:
            kind = getattr(edit_mask, "dtype", type(edit_mask).__name__)
            raise ValueError(f"edit_mask must be a bool tensor {expected}, not {kind}; True is where the model draws.")
        if list(edit_mask.shape) != expected:
            raise ValueError(f"edit_mask {list(edit_mask.shape)} must be {expected}: the grid of each prompt's image.")
        opening = input_ids.new_tensor(self.config.image_opening(height, width))
        length = len(opening) + height * width
        ids = torch.nn.functional.pad(input_ids, (length, 0), value=-1)  # room for a picture that is not there
        positions = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(ids >= self.config.visual_token_offset, positions, length).amax(-1, keepdim=True)
        pictures = ids.gather(1, last + torch.arange(1 - length, 1, device=ids.device))
        if not (pictures[:, : len(opening)] == opening).all():
            raise ValueError(
                "edit_mask keeps tokens of the last picture of each prompt, but not every prompt of input_ids has one "
                f"of grid {height}x{width}; give each its source at that size."
            )
        return pictures[:, len(opening) :].masked_fill(edit_mask.flatten(1).to(ids.device), -1)

    def _branches(self, settings, prompt, image_prompt, negative_prompt, image_tokens):
        """Ids and mask of each branch that guidance needs: the condition, the image alone (editing), nothing."""
        if prompt[0] is None or prompt[0].ndim != 2 or not prompt[0].numel():
            raise ValueError("generation_mode='image' needs input_ids [B, T] of at least one prompt and one token.")
        branches = {"input_ids": prompt}
        editing = image_prompt[0] is not None
        scales = ["guidance_scale", "image_guidance_scale"] if editing else ["guidance_scale"]
        if guiding := [f"{name} {settings[name]}" for name in scales if settings[name] != 1]:
            if negative_prompt[0] is None:
                raise ValueError(
                    f"{' and '.join(guiding)} needs negative_prompt_ids; ArmProcessor.image_generation_inputs makes "
                    f"them, and {'=1 and '.join(scales)}=1 does without."
                )
            branches |= {"image_prompt_ids": image_prompt} if editing else {}
            branches["negative_prompt_ids"] = negative_prompt
        for name, (ids, _) in branches.items():
            if ids.ndim != 2 or len(ids) != len(prompt[0]):
                raise ValueError(
                    f"{name} {list(ids.shape)} must be [{len(prompt[0])}, T]: one prompt for each in input_ids."
                )
        pad = self.generation_config.pad_token_id
        built = {name: padded_left(*branch, pad, name) for name, branch in branches.items()}
        if image_tokens is not None and "image_prompt_ids" in built:
            ids, mask = built["image_prompt_ids"]
            ids = self.model.place_image_tokens(ids, image_tokens, "The pictures of input_ids")
            built["image_prompt_ids"] = ids, mask
        return [tuple(part.to(self.device) for part in branch) for branch in built.values()]
