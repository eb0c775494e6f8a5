"""What a run's log lines say beside the loss: its parts, over all processes, and how fast the run is.

The rule: **every figure is a sum over a count**, added up on each process without waiting for any other, and exchanged
once a log. A part that only some processes have is a name that only some send. Knows nothing about where logs go
(`reporting`), nor how much work a batch is (`work`).
"""

import time
from collections.abc import Iterator

import torch
from accelerate.utils import gather_object

from .work import Work, peak_flops, work_of

DIGITS = {"tokens_per_second_per_process": 1}  # others have 5


class Means:
    """Means by name, each of several means weighted by how many they are of; on their device until they are taken."""

    def __init__(self):
        self.sums, self.counts = {}, {}

    def add(self, name: str, mean: torch.Tensor, count: torch.Tensor | float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + mean.detach().float() * count
        self.counts[name] = self.counts.get(name, 0) + count

    def take(self) -> dict[str, tuple[float, float]]:
        """Sum and count of each since the last time."""
        taken = {name: (float(total), float(self.counts[name])) for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return taken


def over_processes(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Sums and counts of this process -> means over all processes, of what any of them has; all must call it."""
    totals = {}
    for of_process in gather_object([sums]):
        for name, pair in of_process.items():
            before = totals.get(name, (0.0, 0.0))
            totals[name] = (before[0] + pair[0], before[1] + pair[1])
    return {name: round(total / count, DIGITS.get(name, 5)) for name, (total, count) in totals.items() if count}


class Pace:
    """How fast a process is: work, and time that it waited for batches, since the last log."""

    def __init__(self):
        self.began, self.waited, self.work = None, 0.0, None

    def begin(self) -> None:
        """Starts the clock, unless it runs."""
        self.began = time.perf_counter() if self.began is None else self.began

    def timed(self, batches: Iterator) -> Iterator:
        """The same batches; the time that each takes to come is waiting."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield batch

    def did(self, work: Work | None) -> None:
        """Notes the work of a batch; None is unknown."""
        if work is not None:
            self.work = work if self.work is None else Work(*map(sum, zip(self.work, work, strict=True)))

    def take(self, peak: float | None) -> dict[str, tuple[float, float]]:
        """Sums and counts since the last time, and begins anew.

        Args:
            peak: floating-point operations a second that the hardware could do; None if it is not known.
        """
        now = time.perf_counter()
        seconds = now - (now if self.began is None else self.began)
        taken = {"data_wait": (self.waited, seconds)}
        if self.work is not None:
            taken["tokens_per_second_per_process"] = (float(self.work.tokens), seconds)
            if peak is not None:
                taken["model_flops_share"] = (float(self.work.flops), seconds * peak)
        self.began, self.waited, self.work = now, 0.0, None
        return taken


class RunLogsMixin:
    """For a `Trainer`: what is logged beside `loss`, over all processes and all steps since the last log.

    - `loss_<name>`: parts of the loss. A model output may carry them as `losses`, a dict of scalar tensors, and as
      `loss_counts` how many tokens or pictures each is the mean of; of a part without a count each batch counts alike.
    - `tokens_per_second_per_process`, `data_wait` (share of the time) and, where the hardware's peak is known,
      `model_flops_share`. The time is all that passed, with looks, evaluation and saves.

    Evaluation has the parts as well, `eval_<dataset>_loss_<name>`, and draws the same noise whenever it runs, without
    changing what training draws. Its losses are the same for any number of processes: means over all that the parts
    count, or, where a part has no count, over batches by the `weight` that they may hold (0 for one that only keeps
    processes in step).

    transformers' own counts say too little: `include_num_input_tokens_seen` waits for all processes in every step and
    takes pixels for tokens, and its speed is that since the training began.
    """

    def __init__(self, *args, **kwargs):
        self._parts, self._held_out, self._pace = Means(), Means(), Pace()
        self._weight, self._count = 1, 1  # of the batch that is evaluated, as it says and by its parts
        super().__init__(*args, **kwargs)
        if not self.label_names:
            self.can_return_loss = True  # or evaluation would have none of models whose inputs are no labels

    def train(self, *args, **kwargs):
        self._parts, self._pace = Means(), Pace()
        return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._pace.begin()
        return super().get_batch_samples(self._pace.timed(epoch_iterator), num_batches, device)

    def floating_point_ops(self, inputs) -> float:
        """Those of a training step on a batch, which transformers adds up as `total_flos`."""
        work = work_of(self.accelerator.unwrap_model(self.model), inputs)
        self._pace.did(work)
        return 0.0 if work is None else float(work.flops)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if not model.training:
            kwargs["num_items_in_batch"] = None  # a mean of its own, which is weighted here
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        losses, counts = outputs.get("losses") or {}, outputs.get("loss_counts")
        all_counted = counts is not None and counts.keys() == losses.keys()
        means, weight = (self._parts, 1) if model.training else (self._held_out, self._weight)
        for name, value in losses.items():
            means.add(f"loss_{name}", value, weight * (counts or {}).get(name, 1))
        self._count = sum(counts.values()) if all_counted else 1
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, *args, **kwargs):
        self._weight = inputs.get("weight", 1)
        inputs = {name: value for name, value in inputs.items() if name != "weight"}
        loss, *others = super().prediction_step(model, inputs, *args, **kwargs)
        if loss is not None:
            self._held_out.add("loss", loss, self._weight * self._count)
        self._weight = 1
        return loss, *others

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self._held_out = Means()
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.args.seed)
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = over_processes(self._held_out.take())
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means.items()})
        return output

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            peak = peak_flops(self.args.device, getattr(self.args, "peak_tflops", None))
            logs |= over_processes(self._parts.take() | self._pace.take(peak))
        super().log(logs, *args, **kwargs)
