"""A transformers pipeline that answers in texts and pictures, in the order the model writes them: "interleaved".

`generate` writes texts. Where the model has opened a picture and stated its shape, the picture is drawn and rendered
as those of the other pipelines are, guidance included, and the text goes on after it. Knows nothing about sampling.
"""

from collections.abc import Iterator, Mapping
from numbers import Integral

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from .configuration_arm import ArmConfig
from .fetching_arm import FROM_OUTSIDE, Fetcher
from .loading_arm import hooked
from .pipeline_arm import ARGUMENTS, ArmImagePipeline

OF_PICTURES = ("generate", "detokenizer", "preview")
# What of `generate`'s arguments this pipeline states for texts.
OWN = ("inputs", "input_ids", "attention_mask", "pixel_values", "generation_mode", "max_new_tokens", "max_length")
OWN += ("streamer", "num_return_sequences", "return_dict_in_generate")


class OpenedImage(StoppingCriteria):
    """Stops rows where an image has stated its shape and its tokens would come."""

    def __init__(self, config: ArmConfig):
        self.config = config

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        return self.config.image_token_follows(input_ids[:, -1])


class TextsOfOneAnswer(BaseStreamer):
    """Passes the prompt and the texts of an answer on to a streamer as if they were written in one go.

    Args:
        streamer: one of transformers'.
    """

    def __init__(self, streamer: BaseStreamer):
        self.streamer, self.begun, self.prompt = streamer, False, True

    def put(self, value: torch.LongTensor) -> None:
        if not (self.prompt and self.begun):  # of texts after the first the prompt is what was written before
            self.streamer.put(value)
        self.begun, self.prompt = True, False

    def end(self) -> None:
        self.prompt = True


class ArmInterleavedPipeline(ArmImagePipeline):
    """`pipeline("interleaved", model=...)(chat)`: a chat gives the parts of an answer, texts and pictures in order.

    Example:
        >>> from transformers import pipeline
        >>> import transformers_arm
        >>> tell = pipeline("interleaved", model="checkpoints/arm-tiny")
        >>> picture, text, *others = tell("tell a story of a red circle above a blue square")
    """

    _arguments = {
        **{name: there for name, there in ARGUMENTS.items() if there[0] in OF_PICTURES and name != "streamer"},
        "max_new_tokens": ("text", "max_new_tokens"),
        "generate_kwargs": ("text", "generate_kwargs"),
        "text_streamer": ("text", "streamer"),
        "fetcher": ("text", "fetcher"),
    }

    def _sanitize_parameters(self, **kwargs):
        if unknown := set(kwargs) - set(self._arguments):
            raise TypeError(
                f"Unknown argument {', '.join(sorted(unknown))}; this pipeline takes {', '.join(self._arguments)}."
            )
        text = self._of("text", kwargs, kept=True)
        most = text.get("max_new_tokens")
        if most is not None and (not isinstance(most, Integral) or most < 1):
            raise ValueError(f"max_new_tokens {most!r} must be a whole number, 1 or more.")
        if own := set(OWN) & set(text.get("generate_kwargs") or {}):
            raise TypeError(
                f"generate_kwargs hold {', '.join(sorted(own))}, which this pipeline states itself; leave them out. "
                "max_new_tokens and text_streamer are arguments of its own."
            )
        if isinstance(kwargs.get("generator"), (list, tuple)):
            raise ValueError("generator is a list, but a model chooses how many pictures it draws; give one for all.")
        _, forward, _ = super()._sanitize_parameters(
            **{name: value for name, value in kwargs.items() if name not in text}
        )
        return {}, {**forward, **text}, {}

    def __call__(self, chat, **kwargs):
        """Answers a chat, or each of a list of chats.

        Args:
            chat: `[{"role", "content"}]`, as `ArmProcessor.apply_chat_template` takes it, or a str, what a user says;
                or a list of chats, or of str. If the last message is the assistant's, the answer goes on with it.
            max_new_tokens: of an answer, texts and image tokens together; default: what the model has positions for.
            generate_kwargs: of `generate`, for texts: `do_sample`, `temperature`, `logits_processor`, ...
            text_streamer: as transformers' are; gets the prompt, what is written of texts, and one `end` an answer,
                also of one that breaks off or is left half-way.
            fetcher: opens what messages name as pictures; see `ArmProcessor.apply_chat_template`.
            kwargs: of the pictures, as for text-to-image: `do_sample`, `temperature`, `top_k`, `top_p`,
                `guidance_scale`, `image_guidance_scale`, `generation_config`, `generator`, `num_inference_steps`,
                `decoder_guidance_scale`, and `preview`, `preview_every`, `preview_steps`, where number is that of the
                picture in the answer; one with fewer rows than `preview_every` has none.

        Returns:
            A list of `{"type": "text", "text": str}` and `{"type": "image", "image": PIL.Image}`, which may be the
            content of the assistant's message; for a list of chats a list of such lists.

        Raises:
            ValueError: a chat without messages or text, or one that leaves no room for an answer.
            TypeError: no chat, or an argument that this pipeline does not take.
        """
        if not several(chat):
            return list(self.stream(chat, **kwargs))
        chats = [self.checked(each) for each in chat]  # all of them, before the first is answered
        return [list(self.stream(each, **kwargs)) for each in chats]

    def stream(self, chat, **kwargs) -> Iterator[dict]:
        """The parts of the answer to one chat, each as soon as it is there; arguments as of a call."""
        if several(chat):
            raise TypeError("stream answers one chat; call it for each of a list.")
        _, given, _ = self._sanitize_parameters(**kwargs)
        return self._parts(self.checked(chat), **{**self._forward_params, **given})

    def checked(self, chat) -> list[dict]:
        """A chat of messages; raises as a call."""
        chat = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
        if not isinstance(chat, (list, tuple)) or not all(isinstance(each, Mapping) for each in chat):
            raise TypeError(f'A chat is a str or a list of {{"role": ..., "content": ...}}, not {chat!r}.')
        if not any(each.get("content") for each in chat):
            raise ValueError(f"The chat {chat!r} says nothing; give a message with a text or a picture.")
        return list(chat)

    def _prompt(self, chat: list[dict], fetcher: Fetcher) -> torch.LongTensor:
        """Ids [1, T] of a chat, its pictures' tokens in place; of an answer that is to go on, up to what closes it."""
        goes_on = chat[-1].get("role") == "assistant"
        inputs = self.processor.apply_chat_template(
            chat,
            add_generation_prompt=not goes_on,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            fetcher=fetcher,
        ).to(self.model.device)
        ids = inputs["input_ids"]
        if "pixel_values" in inputs:
            with hooked(self.model):  # whose forward is not called
                ids = self.model.model.fill_image_tokens(ids, inputs["pixel_values"])
        if not goes_on:
            return ids
        # The template's own `continue_final_message` would go on after the last text, without a picture that follows.
        closing = self.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        return ids[:, : int((ids[0] == closing).nonzero()[-1])]

    def _parts(self, chat: list[dict], text_streamer: BaseStreamer | None = None, **given) -> Iterator[dict]:
        try:
            yield from self._written(chat, text_streamer, **given)
        finally:  # whoever reads from it waits for this
            if text_streamer is not None:
                text_streamer.end()

    def _written(
        self,
        chat: list[dict],
        text_streamer: BaseStreamer | None,
        max_new_tokens: int | None = None,
        generate_kwargs: dict | None = None,
        fetcher: Fetcher = FROM_OUTSIDE,
        **of_pictures,
    ) -> Iterator[dict]:
        ids, config, pictures = self._prompt(chat, fetcher), self.model.config, 0
        most = config.max_position_embeddings if max_new_tokens is None else ids.shape[1] + max_new_tokens
        if ids.shape[1] >= most:
            raise ValueError(
                f"The chat has {ids.shape[1]} tokens, and the model positions for {most}: there is no room for an "
                "answer. Shorten the chat, or state max_new_tokens."
            )
        options = {**(generate_kwargs or {}), "num_return_sequences": 1, "return_dict_in_generate": False}
        if text_streamer is not None:
            options["streamer"] = TextsOfOneAnswer(text_streamer)
        options["stopping_criteria"] = [*(options.get("stopping_criteria") or ()), OpenedImage(config)]
        while ids.shape[1] < most:
            before = ids.shape[1]
            ids = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_mode="interleaved",
                max_new_tokens=most - before,
                **options,
            )
            opened = config.states_width(ids[0, before:]).nonzero()[:1, 0].tolist()
            if opened:  # what was guessed of its tokens, with `prompt_lookup_num_tokens`, is drawn anew, guided
                ids = ids[:, : before + opened[0] + 1]
            text = self.processor.decode(ids[0, before:], skip_special_tokens=True)
            if text:
                yield {"type": "text", "text": text}
            if not opened:
                break
            grid = config.stated_grid(ids[0])
            ids, drawn = self.drawn({"input_ids": ids[:, :-3]}, grid, [pictures], **of_pictures)
            pictures += 1
            yield {"type": "image", "image": drawn[0]}


def several(chat) -> bool:
    """Whether it is a list of chats, and not one."""
    return isinstance(chat, (list, tuple)) and bool(chat) and isinstance(chat[0], (str, list, tuple))
