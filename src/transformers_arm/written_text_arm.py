"""What people write stays text: tokenizers that no other call switches, and messages that make no special token.

Knows where pictures lie in messages, but nothing else about them, nor about what becomes of a rendered chat.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

# Stands in a rendered chat, with a number, for what somebody wrote. ARM has no other use for this token.
WRITTEN_TOKEN = "<|vision_pad|>"
WRITTEN = re.compile(re.escape(WRITTEN_TOKEN) + r"(\d+)" + re.escape(WRITTEN_TOKEN))
PICTURE_KEYS = ("image", "image_url", "url", "path", "base64")


def own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the vocabulary of another, and with switches that nobody else turns.

    The rule for whatever calls share, in every part of ARM: **nothing shared is set for a call and reset after it**;
    calls of other threads would find it set. transformers' tokenizers set padding, truncation and
    `split_special_tokens` on the backend that all their callers share, so who encodes for ARM has one of their own.
    The vocabulary is not copied: one for each call costs less than a millisecond, and knows all tokens added so far.
    """
    shared = tokenizer.backend_tokenizer
    backend = Tokenizer(shared.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(shared, part) is not None:
            setattr(backend, part, getattr(shared, part))
    backend.add_tokens([token for _, token in sorted(shared.get_added_tokens_decoder().items())])
    own = copy.copy(tokenizer)
    own._tokenizer = backend
    return own


def written_text_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """Encodes what people write, in any number of threads: special tokens are text. Knows tokens added until now."""
    backend = own_tokenizer(tokenizer).backend_tokenizer
    backend.encode_special_tokens = True  # here, so that no call has to set it
    return lambda text: backend.encode(text, add_special_tokens=False).ids


def hide_written(value, written: list, printed: set[str], key: str | None = None):
    """A copy of (nested) messages in which marks stand for what somebody wrote.

    The rule for messages: **templates see marks, and beside them only what can make no special token**. It holds for
    every type, for one that is not known is refused. Entries that are None, which datasets put into parts of other
    types, go.

    Args:
        value: messages, or a part of them.
        written: gets what the marks stand for: strings, and pictures or where they are.
        printed: gets what stays as it is, because templates look for it: keys, numbers, types that are names, roles
            of letters alone. `check_printed` refuses what it must not hold.
        key: where the value lay.

    Raises:
        TypeError: a value of another type, or a key that is no str.
    """
    if isinstance(value, str):
        value = str.__str__(value)  # what a subclass holds, not what it prints
        if (key == "type" and value.isidentifier()) or (key == "role" and value.isalpha()):
            printed.add(value)
            return value
    if isinstance(value, str) or (key in PICTURE_KEYS and not isinstance(value, Mapping)):
        written.append(value)
        return f"{WRITTEN_TOKEN}{len(written) - 1}{WRITTEN_TOKEN}"
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"Keys of messages are str, but one is a {type(odd[0]).__name__}; write it as a str.")
        entries = {str.__str__(name): each for name, each in value.items() if each is not None}
        printed.update(entries)
        return {name: hide_written(each, written, printed, name) for name, each in entries.items()}
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and type(plain := value.tolist()) is not type(value):
        return hide_written(plain, written, printed, key)
    if type(value) in (bool, int, float, type(None)):
        printed.add(str(value))
        return value
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [hide_written(each, written, printed) for each in value]
    raise TypeError(
        f"Messages are dicts of strings, numbers, lists and pictures, but one holds a {type(value).__name__}; write "
        "it as a str."
    )


def check_printed(printed: set[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a ValueError if a string holds a special token, or ends as one begins: the next could complete it."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    first = {token[0] for token in special}
    for text in sorted(printed):
        ends = [text[place:] for place, character in enumerate(text) if character in first]
        if held := [token for end in ends for token in special if end.startswith(token) or token.startswith(end)]:
            raise ValueError(
                f"{text!r} in a message holds the special token {held[0]!r}, or its beginning. Keys, types, roles and "
                "numbers are given to the template as they are; write it into a text."
            )


def check_messages(conversation) -> None:
    """Raises a TypeError unless (hidden) messages are dicts in a list, and their content text or a list of parts."""
    if not isinstance(conversation, list):
        raise TypeError(f"A conversation is a list of messages, not a {type(conversation).__name__}.")
    for number, message in enumerate(conversation):
        if not isinstance(message, dict):
            raise TypeError(f"Message {number} is a {type(message).__name__}; write it as {{'role', 'content'}}.")
        content = message.get("content", "")
        if not isinstance(content, (str, list)):
            raise TypeError(
                f"The content of message {number} is a {type(content).__name__}; it is a str or a list of parts."
            )
        for place, part in enumerate(content if isinstance(content, list) else []):
            if not isinstance(part, dict) or not str(part.get("type", "")).isidentifier():
                raise TypeError(
                    f"Part {place} of message {number} is no {{'type': 'text', 'text'}} or {{'type': 'image'}}; write "
                    "it as one of them."
                )
