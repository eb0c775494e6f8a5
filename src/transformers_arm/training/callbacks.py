"""Callbacks that show, during training, what the tokenizer makes of pictures and what ARM does with them."""

from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import TrainerCallback

from ..data.shapes import ShapesDataset, to_pixel_values
from ..detokenizer_arm_pixel import ArmPixelDetokenizer
from ..evaluation_multimodal import Arm, editing, generation, understanding
from ..shapes.prompts import GENERATION_TASKS, generation_prompts
from ..shapes.reader import read_scene, reading_equals


def image_rows(*rows: np.ndarray) -> Image.Image:
    """Stacks rows of pictures, each uint8 [N, H, W, 3], into one picture."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def log_look(args, state, scores: dict[str, float], name: str, sheet: Image.Image) -> None:
    """Adds scores to the training's log and saves a sheet of pictures in `<output_dir>/<name>/`."""
    scores = {"step": state.global_step, **scores}
    state.log_history.append(scores)
    print(scores, flush=True)
    folder = Path(args.output_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / f"step-{state.global_step:07d}.png")


class ReconstructionCallback(TrainerCallback):
    """Every `every` steps: PSNR, read-back and codes in use on fresh training scenes, in the log, and a sheet of
    originals above reconstructions in `<output_dir>/reconstructions/`.

    Args:
        every: steps between two looks.
        pictures: number of pictures; never of the test split, so that no recipe is tuned on it.
        steps: Euler steps of the rendering.
    """

    def __init__(self, every: int = 500, pictures: int = 128, steps: int = 4, seed: int = 900001):
        data = ShapesDataset(pictures, batch_size=pictures, seed=seed)
        self.scenes = [data.scene(index)[0] for index in range(pictures)]
        self.images = np.stack([data[index]["image"] for index in range(pictures)])
        self.every, self.steps, self.seed = every, steps, seed

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero or state.global_step % self.every:
            return
        training = model.training
        model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            encoded = model.vq_model.encode(to_pixel_values(self.images).to(model.device))
            detokenizer = ArmPixelDetokenizer(model.pixel_transformer, FlowMatchEulerDiscreteScheduler())
            detokenizer.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(self.seed)
            drawn = detokenizer(encoded.z_q, None, self.steps, 1.0, generator, output_type="np").images
        model.train(training)
        drawn = (drawn * 255).round().astype(np.uint8)
        error = np.square(drawn.astype(float) - self.images).mean((1, 2, 3))
        right = [reading_equals(read_scene(image), scene) for image, scene in zip(drawn, self.scenes, strict=True)]
        scores = {
            "eval_psnr": round(float(np.mean(10 * np.log10(255**2 / error.clip(1e-5)))), 2),
            "eval_read_back": round(float(np.mean(right)), 4),
            "eval_codes_used": len(encoded.codes.unique()),
        }
        log_look(args, state, scores, "reconstructions", image_rows(self.images[:16], drawn[:16]))


class TaskScoresCallback(TrainerCallback):
    """Every `every` steps: generation, editing and understanding of fresh training scenes, in the log, and a sheet of
    pictures drawn from full captions in `<output_dir>/samples/`.

    Args:
        processor, detokenizer: what turns requests into tokens and tokens into pictures.
        every: steps between two looks.
        count: items a score; never of the test split, so that no recipe is tuned on it.
    """

    def __init__(self, processor, detokenizer, every: int = 2000, count: int = 100, seed: int = 900002):
        self.processor, self.detokenizer = processor, detokenizer
        self.every, self.count, self.seed = every, count, seed

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero or state.global_step % self.every:
            return
        arm = Arm(model, self.processor, self.detokenizer)
        settings = {"count": self.count, "seed": self.seed, "split": "train"}
        with torch.random.fork_rng():
            drawn = generation(arm, tasks=(*GENERATION_TASKS, "full"), **settings)
            scores = {
                "eval_generation": drawn["overall"],
                "eval_full": drawn["full"],
                "eval_editing": editing(arm, **settings)["exact"],
                "eval_understanding": understanding(arm, **settings)["overall"],
            }
            prompts = generation_prompts("full", 16, seed=self.seed, split="train")
            sheet = image_rows(np.stack([np.asarray(picture) for picture in arm.draw(prompts, seed=self.seed)]))
        log_look(args, state, {name: round(value, 4) for name, value in scores.items()}, "samples", sheet)
