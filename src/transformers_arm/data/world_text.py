"""Text of the embedded world for language-model pre-training: captions, paraphrases, questions and edits in words."""

import random

import torch
from torch.utils.data import Dataset

from ..shapes.captions import full_caption, sample_caption, shuffled_caption
from ..shapes.edits import sample_edit
from ..shapes.questions import sample_question
from ..shapes.scene import sample_scene

ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TASKS = {"caption": 0.15, "paraphrase": 0.25, "question": 0.3, "edit": 0.3}


class WorldText(Dataset):
    """Text documents about training scenes; document `index` is a pure function of `(seed, index)`.

    - caption: any caption of a scene;
    - paraphrase: the full caption with objects in random order, answered by the full caption in cell order;
    - question: the full caption and a question about it, answered;
    - edit: the full caption and an instruction, answered by the target's full caption.

    What has a prompt and an answer stands in ChatML, or plainly on one line each, half and half.
    """

    def __init__(self, length: int, *, seed: int, split: str = "train"):
        self.length, self.seed, self.split = length, seed, split

    def __len__(self) -> int:
        return self.length

    def turn(self, index: int) -> tuple[str, str, str]:
        """(task, prompt, answer) of a document; a caption has no prompt."""
        rng = random.Random(f"{self.seed}/text/{index}")
        (task,) = rng.choices(list(TASKS), TASKS.values())
        scene = sample_scene(rng, split=self.split)
        described = shuffled_caption(rng, scene)
        if task == "question":
            asked = sample_question(rng, scene)
            return task, f"{described}\n{asked.question}", asked.answer
        if task == "edit":
            edit = sample_edit(rng, scene, split=self.split)
            return task, f"{described}\n{edit.instruction}", full_caption(edit.target)
        if task == "paraphrase":
            return task, described, full_caption(scene)
        return task, "", sample_caption(rng, scene)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"Document {index} is outside this dataset of {self.length}.")
        task, prompt, answer = self.turn(index)
        if task == "caption":
            return {"prompt": "", "text": answer}
        prompt, end = (ASKED.format(prompt), "<|im_end|>") if index % 2 else (f"{prompt}\n", "")
        return {"prompt": prompt, "text": prompt + answer + end}


class TextCollator:
    """Documents -> `input_ids`, `attention_mask`, `labels` [B, T], each closed by the end-of-text token.

    Prompts carry no loss: which scene they tell of is chance, and learning chance would cost most of the time.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        texts = [sample["text"] + self.tokenizer.eos_token for sample in samples]
        batch = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        prompts = self.tokenizer([sample["prompt"] for sample in samples]).input_ids
        for row, prompt in zip(labels, prompts, strict=True):
            row[: len(prompt)] = -100
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}
