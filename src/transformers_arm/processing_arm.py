"""Text and pictures -> the ids of ARM's one sequence, and ids -> text and codes.

An image is `<|vision_start|><|h:H|><|w:W|>`, H*W times `<|image_pad|>` and `<|vision_end|>`; the model puts the image
tokens in. What people write in a conversation is encoded apart from the template's own text, as in training, so that
it can hold no control token. Knows nothing about the model, nor about how codes are made and rendered.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoTokenizer
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .configuration_arm import MAX_GRID_SIDE
from .fetching_arm import FROM_OUTSIDE, Fetcher
from .image_processing_arm import ArmImageProcessor, flatten_images
from .written_text_arm import (
    WRITTEN,
    WRITTEN_TOKEN,
    check_messages,
    check_printed,
    hide_written,
    own_tokenizer,
    written_text_encoder,
)

CHAT_TEMPLATE = r"""{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content or [] %}
            {%- if part.type == 'text' %}
                {{- part.text }}
            {%- elif part.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else %}
                {{- raise_exception('A part of type ' ~ part.type ~ ' is neither text nor image; leave it out.') }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

SHAPE_TOKENS = [f"<|{side}:{length}|>" for side in "hw" for length in range(1, MAX_GRID_SIDE + 1)]
PADDING_ARGUMENTS = (
    *("padding", "max_length", "pad_to_multiple_of", "padding_side"),
    *("return_attention_mask", "return_tensors"),
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that the image processor has prepared, [3, H, W], for messages that show it once more."""

    pixel_values: torch.Tensor


class ArmProcessor(ProcessorMixin):
    """ARM's image processor, text tokenizer and chat template.

    `processor(images, text)` takes text that is already rendered and trusted, and parses special tokens in it. What
    users write belongs into `apply_chat_template(tokenize=True)` or `image_generation_inputs`. Any number of threads
    may call them (`own_tokenizer` says what that asks for).

    Args:
        image_processor: an `ArmImageProcessor`.
        tokenizer: Qwen2.5's, with the 256 shape tokens `<|h:1|>` .. `<|h:128|>`, `<|w:1|>` .. `<|w:128|>`.
        visual_token_offset: the first image token's id in the model's flat vocabulary.
        chat_template: Jinja; the default is ChatML without a system prompt.

    Raises:
        ValueError: the tokenizer lacks vision or shape tokens, or they overlap the image tokens.
    """

    # Of a processor that is for one call of `apply_chat_template`: what the marks stand for that it leaves in a text,
    # and the pictures that it got beside the messages.
    _written: Sequence | None = None
    _images: ImageInput | None = None
    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "pixel_values"]  # may be a list of sizes

    def __init__(self, image_processor, tokenizer, visual_token_offset: int, chat_template=CHAT_TEMPLATE):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.visual_token_offset = visual_token_offset
        self.image_token = "<|image_pad|>"
        vocabulary = tokenizer.get_vocab()
        special = ("<|vision_start|>", "<|vision_end|>", WRITTEN_TOKEN, self.image_token, *SHAPE_TOKENS)
        if missing := [token for token in special if token not in vocabulary]:
            raise ValueError(
                f"The tokenizer lacks {len(missing)} of ARM's tokens, {missing[0]} first; use Qwen2.5's, and "
                "ArmProcessor.from_backbones to add the shape tokens."
            )
        self.vision_start_token_id, self.vision_end_token_id, self.written_token_id, self.image_token_id = (
            vocabulary[token] for token in special[:4]
        )
        first = self.shape_token_offset = vocabulary[SHAPE_TOKENS[0]]
        last = first + len(SHAPE_TOKENS) - 1
        in_order = [vocabulary[token] for token in SHAPE_TOKENS] == list(range(first, last + 1))
        if not in_order or last >= visual_token_offset:
            raise ValueError(
                f"The shape tokens must take the ids {first}..{last} in order, below visual_token_offset "
                f"{visual_token_offset}; build the processor with ArmProcessor.from_backbones."
            )

    @classmethod
    def from_backbones(cls, *, text: str, vq: str) -> "ArmProcessor":
        """The processor of `ArmForCausalLM.from_backbones` with the same arguments.

        Args:
            text: folder or Hub id of a `Qwen2ForCausalLM` with its tokenizer.
            vq: folder or Hub id of an `ArmVQModel` with its image processor.
        """
        tokenizer = AutoTokenizer.from_pretrained(text, padding_side="left")
        tokenizer.add_tokens([AddedToken(token, special=True) for token in SHAPE_TOKENS], special_tokens=True)
        tokenizer.chat_template = CHAT_TEMPLATE
        vocab_size = AutoConfig.from_pretrained(text).vocab_size
        return cls(ArmImageProcessor.from_pretrained(vq), tokenizer, visual_token_offset=vocab_size)

    # --- text and pictures -> ids ---------------------------------------------------------------------------------

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | Sequence[str] | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Trusted text and its pictures -> what the model takes.

        Args:
            images: one picture or a flat list, dealt to the `<|image_pad|>` of the texts in order; or a list with one
                picture or list of pictures a text. Whatever `ArmImageProcessor` takes.
            text: one text or a list; special tokens in it are parsed.
            kwargs: of the tokenizer (`padding`, `return_tensors`, ...) and the image processor (`size`, ...).

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` [B, T], padded on the left, and `pixel_values`: a
            float32 torch tensor [N, 3, H, W], or a list of N tensors [3, H, W] if their sizes differ.

        Raises:
            ValueError: neither text nor images, or not as many images as placeholders.
        """
        if self._written is None:
            return super(ArmProcessor, self._for_one_call()).__call__(images=images, text=text, **kwargs)
        merged = self._merge_kwargs(ProcessingKwargs, self.tokenizer.init_kwargs, **kwargs)
        text_kwargs = {name: value for name, value in merged["text_kwargs"].items() if value is not None}
        if refused := [name for name, value in text_kwargs.items() if value and name not in PADDING_ARGUMENTS]:
            raise ValueError(
                f"A conversation's ids take {', '.join(PADDING_ARGUMENTS)}, not {', '.join(refused)}; leave that out, "
                "or render with tokenize=False a text that you trust."
            )
        if self._images is not None:
            images = [self._images] if isinstance(text, str) else self._images
        texts = [text] if isinstance(text, str) else text
        order = [int(number) for each in texts for number in WRITTEN.findall(each)]
        texts = [WRITTEN.sub(WRITTEN_TOKEN, each) for each in texts]
        if sum(each.count(WRITTEN_TOKEN) for each in texts) != len(order):
            raise ValueError(
                f"The chat template cuts what it prints, or writes {WRITTEN_TOKEN}, which stands for that; have it "
                "print strings of messages whole."
            )
        inputs = super().__call__(images=self._pictures(images), text=texts, images_kwargs=merged["images_kwargs"])
        encode, pieces = written_text_encoder(self.tokenizer), iter(self._written[number] for number in order)

        def ids_at(place: int) -> list[int]:
            if place != self.written_token_id:
                return [place]
            piece = next(pieces)
            return encode(piece if isinstance(piece, str) else f"<{type(piece).__name__}>")

        rows = [[token for place in row for token in ids_at(place)] for row in inputs["input_ids"]]
        padding = {"padding": False} | {name: text_kwargs[name] for name in PADDING_ARGUMENTS if name in text_kwargs}
        pictures = {name: inputs[name] for name in inputs if name == "pixel_values"}
        return BatchFeature({**self.tokenizer.pad({"input_ids": rows}, **padding), **pictures})

    def _for_one_call(self) -> "ArmProcessor":
        """This processor with a tokenizer of its own."""
        own = copy.copy(self)
        own.tokenizer = own_tokenizer(self.tokenizer)
        return own

    def _for_conversation(self, written: Sequence, images: ImageInput | None, fetcher: Fetcher) -> "ArmProcessor":
        """This processor for one call, with what the conversation is made of, and what opens its pictures."""
        own = self._for_one_call()
        own.image_processor = copy.copy(self.image_processor)
        own.image_processor.fetcher, own._written, own._images = fetcher, written, images
        return own

    def _pictures(self, images):
        """(Nested lists of) marks -> the pictures that they stand for; all else passes through."""
        if isinstance(images, (list, tuple)):
            return [self._pictures(image) for image in images]
        mark = WRITTEN.fullmatch(images) if isinstance(images, str) else None
        return self._written[int(mark[1])] if mark else images

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        """As in transformers, but the image processor opens pictures one by one, when their number is known to fit."""
        if text is not None and images is not None and not flatten_images(images):
            images = None
        _, *others = super().prepare_inputs_layout(images=None, text=text, **kwargs)
        return images, *others

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if videos is not None or audio is not None:
            raise ValueError("ARM takes text and images; leave out videos and audio.")
        if images is None and not text:
            raise ValueError("There is neither text nor an image; pass at least one of them.")
        if text is None:
            return
        if not all(isinstance(each, str) for each in text):
            raise ValueError(f"text must be a str or a list of str, not {text!r}.")
        expected = [each.count(self.image_token) for each in text]
        fix = f"every image needs one <|vision_start|>{self.image_token}<|vision_end|> in its text, and vice versa."
        if isinstance(images, (list, tuple)) and any(isinstance(each, (list, tuple)) for each in images):
            given = [len(flatten_images(each)) for each in images]
            if given != expected:
                raise ValueError(
                    f"The {len(text)} texts hold {expected} placeholders {self.image_token}, but the {len(images)} "
                    f"lists hold {given} images; {fix}"
                )
        else:
            given = 0 if images is None else len(flatten_images(images))
            if given != sum(expected):
                raise ValueError(
                    f"The text holds {sum(expected)} placeholders {self.image_token}, but {given} images are given; "
                    f"{fix}"
                )

    def _process_images(self, images: ImageInput, return_tensors=None, **kwargs):
        pictures = flatten_images(images)
        if pictures and all(isinstance(each, Prepared) for each in pictures):
            pixel_values = [each.pixel_values for each in pictures]
        else:
            pixel_values = [torch.as_tensor(each) for each in self.image_processor(images, **kwargs).pixel_values]
        processed = {"pixel_values": pixel_values}
        replacements = [self.replace_image_token(processed, index, **kwargs) for index in range(len(pixel_values))]
        if len({each.shape for each in pixel_values}) == 1:
            processed["pixel_values"] = torch.stack(pixel_values)
        return processed, replacements

    def replace_image_token(self, image_inputs: dict, image_idx: int, patch_size: int | None = None, **kwargs) -> str:
        patch_size = patch_size or self.image_processor.patch_size
        height, width = (side // patch_size for side in image_inputs["pixel_values"][image_idx].shape[-2:])
        return f"<|h:{height}|><|w:{width}|>{self.image_token * (height * width)}"

    def _get_num_multimodal_tokens(self, image_sizes: list[tuple[int, int]] | None = None, **kwargs) -> MultiModalData:
        """Sizes (height, width) of pictures -> how many image tokens each takes, as servers ask."""
        if image_sizes is None:
            return MultiModalData()
        blank = [np.zeros((height, width), np.uint8) for height, width in image_sizes]
        images_kwargs = self._merge_kwargs(ProcessingKwargs, **kwargs)["images_kwargs"]
        _, replacements = self._process_images(blank, **images_kwargs)
        counts = [replacement.count(self.image_token) for replacement in replacements]
        return MultiModalData(num_image_tokens=counts, num_image_patches=counts)

    # --- conversations -> ids -------------------------------------------------------------------------------------

    def apply_chat_template(
        self,
        conversation,
        chat_template: str | None = None,
        tools=None,
        documents=None,
        *,
        tokenize: bool = False,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: dict | None = None,
        sanitize_control_tokens: bool = True,
        fetcher: Fetcher = FROM_OUTSIDE,
        **kwargs,
    ):
        """A conversation, or a list of them, -> text, ids or model inputs, as in transformers.

        With `tokenize=True` no message makes a special token, whatever it holds and whatever the template prints of
        it: strings, addresses of pictures among them, are encoded apart from the template's own text, and special
        tokens in them are text; of pictures themselves a template can print no more than their type. It gets as they
        are only keys, numbers, types that are names and roles of letters alone, which may hold no special token.
        Anything else (bytes, other objects, subclasses of numbers) is refused. The template and its variables in
        `kwargs` are trusted. `tokenize=False` gives text in which all that can no longer be told.

        Nor do messages reach what is not theirs: strings that name pictures are opened as `FROM_OUTSIDE` says, which
        takes no paths of this machine and no addresses of its network. A `pathlib.Path`, which only code can make, is
        opened; and so is what `fetcher` takes.

        Args:
            conversation: `[{"role", "content"}]`; content is a str or a list of `{"type": "text", "text"}` and
                `{"type": "image"}` parts, with the picture as "image", "path", "url" or "base64".
            processor_kwargs: what `__call__` takes (`padding`, `size`, ...); `images` replaces those of the messages.
            sanitize_control_tokens: transformers' switch for what always happens here.
            fetcher: opens what strings name, those of `processor_kwargs` too; `FROM_CALLER` if you wrote them all.
            kwargs: `add_generation_prompt`, `continue_final_message`, `return_tensors`, `return_dict` and variables of
                the template.

        Returns:
            With `tokenize` and `return_dict`, what `__call__` gives; with `tokenize` alone, its `input_ids`; else the
            rendered str, or a list of them.

        Raises:
            ValueError: no messages; with `tokenize`, what would bring in unchecked text, or a picture that cannot, or
                may not, be opened.
            TypeError: with `tokenize`, messages, or something in them, of a type that they cannot have.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, tools, documents, **kwargs)
        if tools or documents or return_assistant_tokens_mask:
            raise ValueError(
                "ARM's ids hold messages only; leave out tools, documents and return_assistant_tokens_mask."
            )
        if not callable(getattr(fetcher, "open", None)):
            raise TypeError(f"fetcher is a {type(fetcher).__name__}; pass a Fetcher, such as FROM_CALLER.")
        written, printed = [], set()
        hidden = hide_written(conversation, written, printed)
        several = isinstance(hidden, list) and hidden and isinstance(hidden[0], list)
        for messages in hidden if several else [hidden]:
            if not messages or messages == [{}]:
                raise ValueError(f"The conversation {conversation!r} has no messages; pass at least one.")
            check_messages(messages)
        check_printed(printed, self.tokenizer)
        # On a copy: `processor_kwargs`, the other way in, is dropped beside other arguments by older transformers, and
        # takes no images there.
        processor_kwargs = dict(processor_kwargs or {})
        rendering = self._for_conversation(written, processor_kwargs.pop("images", None), fetcher)
        return super(ArmProcessor, rendering).apply_chat_template(
            hidden, chat_template, tokenize=True, processor_kwargs=processor_kwargs, **kwargs
        )

    def prepared(self, images: ImageInput, **kwargs) -> list[Prepared]:
        """Pictures that messages and `image_generation_inputs` take as they are, each at a size of its own.

        Args:
            images: one or a list; whatever `ArmImageProcessor` takes.
            kwargs: of the image processor, such as `size`.
        """
        return [Prepared(torch.as_tensor(each)) for each in self.image_processor(images, **kwargs).pixel_values]

    def image_generation_inputs(
        self, prompts: str | Sequence[str], images: ImageInput | None = None, **kwargs
    ) -> BatchFeature:
        """Requests for pictures -> what `generate(generation_mode="image")` takes, each branch of guidance included.

        Args:
            prompts: captions, or instructions if there are images; one or a list. "" draws without a caption.
            images: to edit, an image or a list of images for each prompt; all of them may be `prepared`.
            kwargs: of the image processor, such as `size`.

        Returns:
            `BatchFeature` of left-padded int64 tensors [B, T]: `input_ids`, `negative_prompt_ids` (no prompt, no
            images), their masks `attention_mask` and `negative_prompt_attention_mask`; with images also
            `image_prompt_ids`, `image_prompt_attention_mask` (no prompt) and `pixel_values`, as `__call__` gives them.

        Raises:
            ValueError: no prompts, or not as many images, or lists of images, as prompts.
            TypeError: a prompt that is no str.
        """
        if isinstance(prompts, str):
            prompts, images = [prompts], None if images is None else [images]
        prompts = list(prompts)
        if not prompts:
            raise ValueError("There are no prompts; pass at least one.")
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise TypeError(f"Prompt {index} is a {type(prompt).__name__}; prompts are str.")
        if images is None:
            pictures = [[] for _ in prompts]
        else:
            images = images if isinstance(images, (list, tuple)) else flatten_images(images)
            pictures = [flatten_images(each) for each in self.image_processor.fetch_images(images)]
            if len(pictures) != len(prompts) or not all(pictures):
                raise ValueError(
                    f"Got {[len(each) for each in pictures]} images for {len(prompts)} prompts; give each prompt an "
                    "image or a list of images, or none of them any."
                )
        texts = [[{"type": "text", "text": prompt}] for prompt in prompts]
        parts = [[{"type": "image", "image": image} for image in each] for each in pictures]

        def encode(contents: list[list[dict]]) -> BatchFeature:
            return self.apply_chat_template(
                [[{"role": "user", "content": content}] for content in contents],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left", "images_kwargs": kwargs},
            )

        inputs = encode([text + part for text, part in zip(texts, parts, strict=True)])
        prepared = map(Prepared, inputs.get("pixel_values", ()))
        parts = [[part | {"image": next(prepared)} for part in each] for each in parts]
        branches = {"negative": [[] for _ in prompts]} | ({} if images is None else {"image": parts})
        for name, contents in branches.items():
            branch = encode(contents)
            inputs[f"{name}_prompt_ids"] = branch["input_ids"]
            inputs[f"{name}_prompt_attention_mask"] = branch["attention_mask"]
        return inputs

    # --- ids -> text and codes ------------------------------------------------------------------------------------

    def _without_image_tokens(self, ids):
        """Ids of any kind and nesting -> lists without those that the text tokenizer does not know."""
        if hasattr(ids, "tolist"):
            ids = ids.tolist()
        if isinstance(ids, Integral):
            return [ids] if ids < self.visual_token_offset else []
        if ids and not isinstance(ids[0], Integral):
            return [self._without_image_tokens(each) for each in ids]
        return [token for token in ids if token < self.visual_token_offset]

    def decode(self, token_ids, *args, **kwargs) -> str | list[str]:
        """The tokenizer's `decode`; image tokens leave no trace."""
        return super().decode(self._without_image_tokens(token_ids), *args, **kwargs)

    def batch_decode(self, sequences, *args, **kwargs) -> list[str]:
        """The tokenizer's `batch_decode`; image tokens leave no trace."""
        return super().batch_decode(self._without_image_tokens(sequences), *args, **kwargs)

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, **kwargs) -> list[str]:
        """Ids [B, T] or [T] -> texts, for transformers' pipeline."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def post_process_multimodal_output(self, generated_outputs, *args, generation_mode: str | None = None, **kwargs):
        """For transformers' any-to-any pipeline: ids -> texts, or with `generation_mode="image"` pictures
        [B, 3, H, W] in -1..1, which the model has made of ids, -> PIL images.
        """
        if generation_mode == "image":
            return self.image_processor.postprocess(generated_outputs)
        return super().post_process_multimodal_output(
            generated_outputs, *args, generation_mode=generation_mode, **kwargs
        )

    def decode_interleaved(
        self, ids: torch.LongTensor | Sequence[int], skip_special_tokens: bool = True
    ) -> list[str | torch.LongTensor]:
        """One sequence [T] -> its texts and images in order, an image as int64 codes [H, W]. Empty texts are dropped.

        Raises:
            ValueError: a batch; placeholders that no image token has replaced; or image tokens that are not the H*W
                which the shape tokens before them state.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if not all(isinstance(token, Integral) for token in ids):
            raise ValueError("decode_interleaved takes one sequence [T]; pass the rows of a batch one by one.")
        if placeholders := ids.count(self.image_token_id):
            raise ValueError(
                f"The sequence holds {placeholders} placeholders {self.image_token}; put image tokens there first, "
                "with ArmModel.fill_image_tokens."
            )
        pieces, position = [[]], 0
        while position < len(ids):
            grid = self._opened_grid(ids[position : position + 3])
            if grid is None and ids[position] < self.visual_token_offset:
                pieces[-1].append(ids[position])
                position += 1
                continue
            start = position + 3 * (grid is not None)
            tokens = list(takewhile(lambda token: token >= self.visual_token_offset, ids[start:]))
            height, width = grid or (0, 0)
            if len(tokens) != height * width:
                raise ValueError(
                    f"The image at position {position} has {len(tokens)} image tokens, but its shape tokens state "
                    f"{height}x{width}; generate to its end, and decode it with its opening."
                )
            pieces += [torch.tensor(tokens).view(height, width) - self.visual_token_offset, []]
            position = start + len(tokens)
            position += ids[position : position + 1] == [self.vision_end_token_id]
        decoded = (
            piece if isinstance(piece, torch.Tensor) else self.tokenizer.decode(piece, skip_special_tokens)
            for piece in pieces
        )
        return [piece for piece in decoded if isinstance(piece, torch.Tensor) or piece]

    def _opened_grid(self, ids: list[int]) -> tuple[int, int] | None:
        """(H, W) if three ids open an image, else None."""
        if len(ids) < 3 or ids[0] != self.vision_start_token_id:
            return None
        height, width = ids[1] - self.shape_token_offset + 1, ids[2] - self.shape_token_offset - MAX_GRID_SIDE + 1
        return (height, width) if 1 <= height <= MAX_GRID_SIDE and 1 <= width <= MAX_GRID_SIDE else None


__all__ = ["ArmProcessor"]
