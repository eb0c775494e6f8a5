"""How ARM writes: text, images of a given grid, and both interleaved.

Three rules make every image valid: after a shape only image tokens can follow (the model's routed head), an image
closes after exactly H*W of them, and in text mode none opens. Knows nothing about chat templates or pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .decoding_arm import draw_codes
from .grammar_arm import ImageGrammarLogitsProcessor, TextGrammarLogitsProcessor, ends_in_an_image
from .loading_arm import under_hooks
from .prompts_arm import (
    ImageArguments,
    ImageRequest,
    branches_without_text,
    check_image_request,
    default_grid,
    guiding,
    image_request,
    padded_left,
)
from .sampling_arm import IMAGE_EDITING, IMAGE_GENERATION, ImageSampling

GENERATION_MODES = ("text", "image", "interleaved")

# Arguments that only generation_mode="image" knows.
IMAGE_ARGUMENTS = (
    "image_grid",
    "image_guidance_scale",
    "image_prompt_ids",
    "image_prompt_attention_mask",
    "edit_mask",
    "edit_source",
    "generator",
)

# What a GenerationConfig holds beside settings of images.
CONFIG_SECTIONS = ("image_generation", "image_editing", "empty_prompt_ids", "transformers_version")
CONFIG_SECTIONS += ("_from_model_config", "compile_config")

# What bounds text alone: an image has the tokens of its grid. transformers' pipelines add it to every call.
OF_TEXT = ("max_new_tokens",)


def unstated(config: dict) -> dict:
    """What fields of a configuration hold where nobody states them: nothing, or where all are filled in, as by the
    pipelines of transformers 5.17, its defaults.
    """
    filled = GenerationConfig._get_default_generation_params()
    if any(config.get(name) is None for name, value in filled.items() if value is not None):
        return GenerationConfig().to_dict()
    return filled


@contextmanager
def told_what_to_lower(arguments: ImageArguments, prompts: torch.Tensor):
    """Has a lack of memory say what takes it.

    Raises:
        torch.OutOfMemoryError: memory was lacking, of a GPU or of the host.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        height, width = arguments.image_grid
        raise torch.OutOfMemoryError(
            f"Not enough memory to draw {len(prompts)} x {arguments.num_return_sequences} images of {height}x{width} "
            "tokens at once, each once for every branch of guidance. Lower the batch, num_return_sequences or "
            f"image_grid; guidance_scale=1 takes one branch. ({error})"
        ) from error


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
                `"image"`: one image of `image_grid` a prompt; its arguments are those of `ImageArguments` and
                `ImageSampling`; `max_new_tokens`, which pipelines add, bounds texts alone.
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
        if generation_mode == "image":
            if logits_processor:
                raise TypeError("generation_mode='image' takes no logits_processor: it samples the image rows alone.")
            arguments, sampling = self._image_arguments(generation_config, kwargs, input_ids)
            check_image_request(self, input_ids, arguments, sampling)  # before pictures are read
        input_ids, image_tokens = self._with_pictures(input_ids, pixel_values, kwargs)
        if generation_mode == "image":
            arguments.attention_mask = kwargs.get("attention_mask")  # which went to the right with the prompts
            with evaluating(self), told_what_to_lower(arguments, input_ids):
                return self._generate_image(image_request(self, input_ids, arguments, sampling, image_tokens))
        for name in IMAGE_ARGUMENTS:
            if kwargs.pop(name, None) is not None:
                raise TypeError(f"{name} belongs to generation_mode='image', not to {generation_mode!r}.")
        if generation_mode == "text" and not (input_ids is not None and ends_in_an_image(self.config, input_ids)):
            # Every token to come is text, and so is what follows it. (Of what a custom loop writes, nobody knows.)
            ours = kwargs.get("custom_generate") is None
            kwargs |= {"text_follows": True} if ours else {}
            grammar = TextGrammarLogitsProcessor(self.config, ours and kwargs.get("assistant_model") is None)
        else:
            grammar = ImageGrammarLogitsProcessor(self.config, images=generation_mode == "interleaved")
        processors = LogitsProcessorList([*(logits_processor or []), grammar])
        with evaluating(self):
            return super().generate(input_ids, generation_config, processors, **kwargs)

    def _with_pictures(self, input_ids, pixel_values, others: dict) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Prompts [B, T] on the right, with their pictures' tokens in place; and those tokens [n], if there are any.

        Args:
            others: further arguments of a call; what of them stands beside the prompts is moved with them.

        Raises:
            ValueError: prompts have placeholders and there are no pictures.
        """
        image_tokens, pad = None, self.generation_config.pad_token_id
        if others.get("attention_mask") is not None and input_ids is not None and input_ids.ndim == 2:
            input_ids, others["attention_mask"] = padded_left(input_ids, others["attention_mask"], pad, "input_ids")
        if pixel_values is not None:
            placeholders, input_ids = input_ids, self.model.fill_image_tokens(input_ids, pixel_values)
            image_tokens = input_ids[placeholders == self.config.image_token_id]
        without = {"input_ids": input_ids, "negative_prompt_ids": others.get("negative_prompt_ids")}
        if pixel_values is None:
            without["image_prompt_ids"] = others.get("image_prompt_ids")
        for name, ids in without.items():
            if ids is not None and (ids == self.config.image_token_id).any():
                raise ValueError(
                    f"{name} hold placeholders (id {self.config.image_token_id}) but there are no pixel_values for "
                    "them; pass those that the processor gave, which are of input_ids and image_prompt_ids."
                )
        return input_ids, image_tokens

    def _get_logits_processor(self, generation_config: GenerationConfig, *args, **kwargs) -> LogitsProcessorList:
        """Here stands whatever must hold of what is written, for every way of transformers' to write calls this: the
        grammar of `generate`'s mode, counting down to the final `max_length`, or else that text opens no image.
        """
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        grammars = TextGrammarLogitsProcessor | ImageGrammarLogitsProcessor
        if not any(isinstance(each, grammars) for each in processors):
            return LogitsProcessorList([TextGrammarLogitsProcessor(self.config), *processors])
        return LogitsProcessorList(
            each.within(generation_config) if isinstance(each, grammars) else each for each in processors
        )

    def _get_candidate_generator(self, *args, model_kwargs: dict, **kwargs):
        """As in transformers, but for `text_follows`: an assistant finds out by itself, or is no ARM at all."""
        shared = {name: value for name, value in model_kwargs.items() if name != "text_follows"}
        return super()._get_candidate_generator(*args, model_kwargs=shared, **kwargs)

    def _image_arguments(self, generation_config, given: dict, input_ids) -> tuple[ImageArguments, ImageSampling]:
        """Arguments of a call for images, apart from its settings of sampling; both are checked, and what the prompts
        and the model's generation config say of them is put in where the call says nothing.
        """
        names = {field.name for field in fields(ImageArguments)}
        arguments = {name: value for name, value in given.items() if name in names}
        for config in (generation_config, self.generation_config):
            if arguments.get("compile_config") is None:
                arguments["compile_config"] = getattr(config, "compile_config", None)
        sampling = {name: value for name, value in given.items() if name not in (*names, *OF_TEXT)}
        prompts = isinstance(input_ids, torch.Tensor) and input_ids.ndim == 2
        if arguments.get("image_grid") is None and prompts:
            arguments["image_grid"] = default_grid(self.config, input_ids)
        ready, chosen = self._checked_arguments(generation_config, arguments, sampling)
        empty = getattr(self.generation_config, "empty_prompt_ids", None)
        made = ready.negative_prompt_ids is None and ready.image_prompt_ids is None
        if made and empty and prompts and guiding(ready, chosen):
            arguments |= branches_without_text(self.config, input_ids, empty)
            return self._checked_arguments(generation_config, arguments, sampling)
        return ready, chosen

    def _checked_arguments(self, generation_config, arguments: dict, sampling: dict):
        editing = arguments.get("image_prompt_ids") is not None
        settings = self._image_settings(generation_config, sampling, editing=editing)
        return ImageArguments(**arguments), ImageSampling(**settings)

    def _generate_image(self, request: ImageRequest) -> torch.LongTensor | GenerateDecoderOnlyOutput:
        """One image a prompt: all branches of guidance in one batch, and a step a token.

        Returns:
            [B * num_return_sequences, T + 3 + H*W + 1]: prompt, opening, image tokens, closing.
        """
        arguments, streamer = request.arguments, request.arguments.streamer
        height, width = arguments.image_grid
        prompts = request.prompts.repeat_interleave(arguments.num_return_sequences, 0)
        opening = prompts.new_tensor(request.opening).expand(len(prompts), -1)
        closing = prompts.new_full((len(prompts), 1), self.config.vision_end_token_id)
        if streamer is not None:
            streamer.put(opening.cpu())
        tokens, all_scores = [], []
        for step, (drawn, scores) in enumerate(self._drawn_tokens(request)):
            kept = None if request.kept is None else request.kept[:, step]
            tokens.append(drawn if kept is None else torch.where(kept < 0, drawn, kept))
            if arguments.output_scores:
                all_scores.append(request.sampling.kept(scores))
            if streamer is not None and (step + 1) % width == 0:
                streamer.put(self._checked(torch.stack(tokens[-width:], 1)).cpu())
        tokens = self._checked(torch.stack(tokens, 1))
        if streamer is not None:
            streamer.put(closing.cpu())
            streamer.end()
        sequences = torch.cat([prompts, opening, tokens, closing], 1)
        if not arguments.return_dict_in_generate:
            return sequences
        scores = tuple(all_scores) if arguments.output_scores else None
        return GenerateDecoderOnlyOutput(sequences=sequences, scores=scores)

    def _drawn_tokens(self, request: ImageRequest) -> Iterator[tuple[torch.LongTensor, torch.Tensor | None]]:
        """For each place of the images the tokens [images], and what they were chosen by; None where that is no
        matter, for all are kept.
        """
        offset, end, steps = self.config.visual_token_offset, self.config.vocab_size, request.steps
        if steps:
            for codes, scores in draw_codes(
                self.model,
                partial(self.routed_head, start=offset, stop=end),
                request.prefix,
                request.sampling,
                request.uniform[:, :steps],
                offset=offset,
                compile_config=request.arguments.compile_config,
            ):
                yield (codes + offset).to(request.prompts.device), scores  # which are where the last layer is
        for step in range(steps, request.uniform.shape[1]):
            yield request.kept[:, step], None

    def _checked(self, tokens: torch.LongTensor) -> torch.LongTensor:
        """Image tokens [images, n] as they are.

        Raises:
            RuntimeError: some stand for scores that are not numbers.
        """
        if (broken := (tokens >= self.config.vocab_size).any(1)).any():
            raise RuntimeError(
                f"The model's logits for {int(broken.sum())} of {len(tokens)} images are not numbers. Weights may be "
                "broken, or too large for float16: load them in bfloat16 or float32."
            )
        return tokens

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
            settings |= self._sampling_of(self.generation_config, name)
        if generation_config is not None:
            given_fields = generation_config.to_dict()
            defaults = unstated(given_fields)
            for name, value in given_fields.items():
                ours = getattr(self.generation_config, name, None)
                if value not in (None, defaults.get(name), ours) and name not in (*CONFIG_SECTIONS, *OF_TEXT):
                    stated[name] = value
            for name in names:
                section = self._sampling_of(generation_config, name)
                if section != self._sampling_of(self.generation_config, name):
                    stated |= section
        known = ", ".join(IMAGE_GENERATION)
        if unknown := {*stated, *given} - {*IMAGE_GENERATION}:
            raise TypeError(f"generation_mode='image' takes no {', '.join(sorted(unknown))}; it takes {known}.")
        if unknown := {*settings} - {*IMAGE_GENERATION}:
            raise ValueError(
                f"{' and '.join(names)} of the model's generation_config hold {', '.join(sorted(unknown))}, which is "
                f"no setting of images; those are {known}."
            )
        return settings | stated | {name: value for name, value in given.items() if value is not None}

    @staticmethod
    def _sampling_of(generation_config: GenerationConfig, section: str) -> dict:
        """A section of a configuration without what it says for pipelines alone."""
        settings = getattr(generation_config, section, None) or {}
        return {name: value for name, value in settings.items() if name not in IMAGE_EDITING}
