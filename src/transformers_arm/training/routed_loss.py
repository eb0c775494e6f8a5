"""What a `Trainer` must know of ARM's loss: it is the model's own, over the rows that can follow, and needs no logits.

The rule: **what would make another loss out of logits is refused by name**, when the trainer is made. Logits hold a
large negative in rows that cannot follow, over which nothing may be averaged. Knows nothing about data.
"""

import torch
from transformers import TrainingArguments

from ..modeling_arm import ArmForCausalLM
from ..sizes.adapters import check_adapters, without_adapters

WHOLE_HEAD = "it takes the softmax over ARM's whole head, not the rows that can follow"
OTHER_LOSSES = {
    "label_smoothing_factor": WHOLE_HEAD,
    "use_liger_kernel": "it replaces the forward that has ARM's loss",
}  # of TrainingArguments


def refuse_other_losses(arguments: TrainingArguments, compute_loss_func=None, *, trainer: str = "ArmTrainer") -> None:
    """Raises ValueError for a setting that would replace ARM's loss."""
    for name, reason in OTHER_LOSSES.items():
        if getattr(arguments, name):
            raise ValueError(f"{name}={getattr(arguments, name)!r} makes no sense for ARM: {reason}. Leave it out.")
    if compute_loss_func is not None:
        raise ValueError(
            f"{trainer} takes no compute_loss_func: ARM has its own ids and loss. Leave it out; a term beside that "
            f"loss goes into compute_loss of a subclass of {trainer}."
        )


def losses_of_sources(
    token_losses: torch.Tensor, sources: torch.LongTensor, source_names: list[str]
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The mean loss of each source, as `of_<name>`, of those whose labels carry loss, and how many labels those are.

    Args:
        token_losses: [B, T], of the label that each position predicts, NaN where none carries loss.
        sources: [B, T], the number of each id's source among `source_names`.
    """
    of_label = torch.nn.functional.pad(sources, (0, 1), value=-1)[:, 1:].to(token_losses.device)
    of_label = of_label.masked_fill(token_losses.isnan(), -1)
    found = (number for number in of_label.unique().tolist() if number >= 0)
    chosen = {f"of_{source_names[number]}": token_losses[of_label == number] for number in found}
    return {name: each.mean() for name, each in chosen.items()}, {name: len(each) for name, each in chosen.items()}


class RoutedLossMixin:
    """For a `Trainer` that may train ARM: it refuses what would replace ARM's loss, tells the loss of each source
    apart where batches hold `sources` (`losses_of_sources`) and `source_names`, and builds no logits to evaluate the
    loss alone. To `compute_metrics` goes what it always gets, logits of the whole vocabulary.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self._trains_arm:
            refuse_other_losses(self.args, self.compute_loss_func, trainer=type(self).__name__)
            check_adapters(self.model)

    @property
    def _trains_arm(self) -> bool:
        return isinstance(without_adapters(self.accelerator.unwrap_model(self.model)), ArmForCausalLM)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        sources, names = inputs.pop("sources", None), inputs.pop("source_names", None)
        told_apart = sources is not None and model.training
        if told_apart:
            inputs["output_token_losses"] = True
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if told_apart:
            losses, counts = losses_of_sources(outputs["token_losses"], sources, names)
            outputs["losses"] |= losses
            outputs["loss_counts"] |= counts
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if prediction_loss_only and self._trains_arm:
            inputs = {**inputs, "skip_logits": True}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
