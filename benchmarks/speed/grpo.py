"""Prints where a step of GRPO goes: prompts, sampling, decoding, rewards, log-probabilities, update, and TRL itself.

    OMP_NUM_THREADS=1 python benchmarks/speed/grpo.py [--model checkpoints/arm-tiny] [--steps 10] [--output FILE]

Mixed text-to-image and editing of the embedded world, with the world's rewards and a reference model. Each part is
the time spent in it alone; what is left of a step (advantages, loss arithmetic, batches, logs of TRL and Trainer) is
TRL's.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from transformers import TrainerCallback

from transformers_arm.evaluation.results import write_result
from transformers_arm.modeling_arm import ArmForCausalLM
from transformers_arm.training.grpo import ArmGRPOConfig, ArmGRPOTrainer
from transformers_arm.worlds.shapes.requests import world_requests
from transformers_arm.worlds.shapes.rewards import (
    world_alignment,
    world_instruction,
    world_preservation,
    world_quality,
)

REWARDS = (world_alignment, world_instruction, world_preservation, world_quality)
PARTS = ("prompts", "sampling", "decoding", "rewards", "log-probabilities", "update", "TRL")
CAPTIONS = {"full": 0.25, "short": 0.25, "any": 0.25, "related": 0.25}


class Stopwatch:
    """Seconds of each part, without those of the parts measured inside it."""

    def __init__(self):
        self.seconds, self.inner = defaultdict(float), [0.0]

    @contextmanager
    def __call__(self, part: str):
        start = self.now()
        self.inner.append(0.0)
        yield
        elapsed = self.now() - start
        self.seconds[part] += elapsed - self.inner.pop()
        self.inner[-1] += elapsed

    @staticmethod
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, part: str, call):
        def measured(*args, **kwargs):
            with self(part):
                return call(*args, **kwargs)

        return measured


class Steps(TrainerCallback):
    """Measures whole steps; the first is a warm-up and left out."""

    def __init__(self, watch: Stopwatch):
        self.watch, self.step, self.steps = watch, None, 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = self.watch("TRL")
        self.step.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self.step.__exit__(None, None, None)
        if state.global_step == 1:
            self.watch.seconds.clear()
        else:
            self.steps += 1


def timed_trainer(arguments: argparse.Namespace, output: str) -> tuple[ArmGRPOTrainer, Stopwatch, Steps]:
    watch = Stopwatch()
    steps = Steps(watch)
    config = ArmGRPOConfig(
        output,
        per_device_train_batch_size=arguments.prompts * arguments.samples,
        num_generations=arguments.samples,
        max_steps=arguments.steps + 1,
        num_inference_steps=arguments.decoder_steps,
        decode_batch_size=64,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        picture_steps=0,
        disable_tqdm=True,
    )
    model = ArmForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    requests = world_requests(arguments.prompts * (arguments.steps + 1), seed=0, editing=0.5, captions=CAPTIONS)
    trainer = ArmGRPOTrainer(model, list(REWARDS), config, requests, callbacks=[steps])
    for part, name in (
        ("prompts", "_tokenize_prompts"),
        ("sampling", "_generate_single_turn"),
        ("decoding", "_render"),
        ("log-probabilities", "_get_per_token_logps_and_entropies"),
    ):
        setattr(trainer, name, watch.around(part, getattr(trainer, name)))
    for guarded in trainer.reward_funcs:
        guarded.reward = watch.around("rewards", guarded.reward)
    trainer.accelerator.backward = watch.around("update", trainer.accelerator.backward)
    trainer.create_optimizer()
    trainer.optimizer.step = watch.around("update", trainer.optimizer.step)
    return trainer, watch, steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/arm-tiny", help="ARM folder")
    parser.add_argument("--steps", type=int, default=10, help="steps measured, after one of warm-up")
    parser.add_argument("--prompts", type=int, default=16, help="prompts a step")
    parser.add_argument("--samples", type=int, default=16, help="samples a prompt")
    parser.add_argument("--decoder-steps", type=int, help="of the detokenizer (default: the folder's)")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as output:
        trainer, watch, steps = timed_trainer(arguments, output)
        trainer.train()
    total = sum(watch.seconds.values())
    print(f"{total / steps.steps:.2f} s a step of {arguments.prompts} x {arguments.samples} samples")
    print("| part | s | share |\n|---|---|---|")
    for part in PARTS:
        print(f"| {part} | {watch.seconds[part] / steps.steps:.3f} | {watch.seconds[part] / total:.1%} |")
    if arguments.output:
        seconds = {part: watch.seconds[part] / steps.steps for part in PARTS}
        share = {part: watch.seconds[part] / total for part in PARTS}
        threads = torch.get_num_threads()
        write_result(arguments.output, **vars(arguments), seconds=seconds, share=share, threads=threads)
