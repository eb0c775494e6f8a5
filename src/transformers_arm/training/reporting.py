"""Scores, pictures and texts of a training: to the reporters of its `report_to`, and into its `output_dir`.

Knows nothing about what they are of.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..whole_files import whole_file, write_whole


def log_scores(trainer: Trainer, scores: dict[str, float]) -> None:
    """Adds scores to the training's log, and hands them to all that its logs go to; to be called by the main process
    alone.
    """
    state = trainer.state
    state.log_history.append({"step": state.global_step, **scores})
    # Not by `trainer.log`, where TRL's trainers empty their own metrics, nor by `CallbackHandler.on_log`, which calls
    # off the log of losses that may be due after this step.
    trainer.callback_handler.call_event("on_log", trainer.args, state, trainer.control, logs=dict(scores))


def log_samples(trainer: Trainer, name: str, sheet: Image.Image | None = None, lines: Sequence[str] = ()) -> None:
    """Saves a sheet of pictures and lines of text as `<output_dir>/<name>/step-0000100.png` and `.txt`, and shows them
    in TensorBoard, W&B and Trackio, where the training reports to them; to be called by the main process alone.
    """
    step = trainer.state.global_step
    file = Path(trainer.args.output_dir) / name / f"step-{step:07d}"
    file.parent.mkdir(parents=True, exist_ok=True)
    if sheet is not None:
        with whole_file(file.with_suffix(".png")) as aside:
            sheet.save(aside)
    if lines:
        write_whole(file.with_suffix(".txt"), "".join(f"{line}\n" for line in lines))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            if sheet is not None:
                callback.tb_writer.add_image(name, np.asarray(sheet), step, dataformats="HWC")
            if lines:
                callback.tb_writer.add_text(name, "\n\n".join(lines), step)  # it reads Markdown
        elif isinstance(callback, (WandbCallback, TrackioCallback)) and callback._initialized:
            library = callback._wandb if isinstance(callback, WandbCallback) else callback._trackio
            shown = {} if sheet is None else {name: library.Image(sheet)}
            if lines:
                shown[f"{name}_texts"] = library.Table(columns=["text"], data=[[line] for line in lines])
            library.log({**shown, "train/global_step": step})
