"""How far the drawing of pictures is, on standard error where that is a terminal; and how much is written."""

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, TextStreamer
from transformers.generation.streamers import BaseStreamer


class DrawnTokens(BaseStreamer):
    """A streamer of `generate(generation_mode="image")` that shows a bar of the tokens of all pictures.

    Args:
        config: the model's.
        pictures: how many will be drawn, of one grid.

    Attributes:
        each: tokens of a picture, once one has been opened.
    """

    def __init__(self, config, pictures: int):
        self.config, self.pictures = config, pictures
        self.bar = tqdm(desc="drawing", unit=" tokens", disable=None, leave=False)
        self.each, self.opens = None, True

    def __enter__(self) -> "DrawnTokens":
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def put(self, value: torch.LongTensor) -> None:
        """The opening [B, 3], each row of image tokens [B, W], the closing [B, 1]."""
        if self.opens:
            height, width = self.config.stated_grid(value[0])
            self.each, self.opens = height * width, False
            self.bar.total = self.pictures * (self.each + 4)  # with what opens and closes it
        self.bar.update(value.numel())

    def end(self) -> None:
        self.opens = True


class WrittenTokens(BaseStreamer):
    """A streamer of texts that counts `tokens`, without those of the prompt."""

    def __init__(self):
        self.tokens = None

    def put(self, value: torch.LongTensor) -> None:
        self.tokens = 0 if self.tokens is None else self.tokens + value.numel()  # the prompt comes first

    def end(self) -> None:
        """Nothing is left to count."""


class PrintedTexts(TextStreamer):
    """Prints texts of an answer as they come."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.in_line = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print(text, end="", flush=True)
        self.in_line = not text.endswith("\n") if text else self.in_line

    def end_line(self) -> None:
        """Prints what is left of a text, and ends its line; more may come, which is no prompt."""
        self.end()
        self.next_tokens_are_prompt = False
        if self.in_line:
            self.on_finalized_text("\n")
