"""Has a model write a text that a test states, so that its pictures come where the test wants them."""

from transformers import LogitsProcessor


class Writes(LogitsProcessor):
    """Has a model write a text, token by token; image tokens are its own."""

    def __init__(self, pipe, text):
        self.script, self.offset = pipe.processor.tokenizer(text)["input_ids"], pipe.model.config.visual_token_offset
        self.before = None

    def __call__(self, input_ids, scores):
        written = int((input_ids[0] < self.offset).sum())
        self.before = written if self.before is None else self.before
        scores[:, self.script[written - self.before]] += 1000.0
        return scores


def steered(pipe, text):
    """Arguments of an interleaved pipeline that has its answer be this text, with pictures where it opens them."""
    return {"generate_kwargs": {"logits_processor": [Writes(pipe, text)]}}
