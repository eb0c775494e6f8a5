"""ARM's head, and the loss of text and image tokens: softmax over the head's rows that can follow, in chunks.

Knows nothing about which rows can follow where; `modeling_arm` does.
"""

import torch
from torch import nn

LOGITS_AT_ONCE = 2**26  # that losses and log-probabilities keep: 256 MiB in fp32, 1,024 positions over 65,536 codes


def positions_at_once(rows: int) -> int:
    """How many positions over so many rows a chunk has: at least one, and no more than `LOGITS_AT_ONCE` allows."""
    return max(1, LOGITS_AT_ONCE // rows)


class RoutedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of groups of positions, each of which takes the softmax over some of the head's rows.

    The gradients are made in the forward pass: so the logits of one chunk of positions are all there ever are, and
    nothing is multiplied twice. They are one table for all rows; autograd would make one for each group, and add.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, targets, groups, differentiate: bool) -> torch.Tensor:
        """One fp32 sum a group.

        Args:
            hidden_states: [N, hidden_size], group after group; weight: [vocab_size, hidden_size].
            targets: ids [N] among the rows of their group.
            groups: of each the number of its positions, and its rows: (count, start, stop).
            differentiate: whether there will be a backward pass; `torch.is_grad_enabled()`, which is off in here.
        """
        counts = [count for count, _, _ in groups]
        sums = hidden_states.new_zeros(len(groups), dtype=torch.float32)
        hidden_grad = torch.zeros_like(hidden_states)
        weight_grad = torch.zeros_like(weight) if differentiate and ctx.needs_input_grad[1] else None
        parts = zip(*(part.split(counts) for part in (hidden_states, targets[:, None], hidden_grad)), strict=True)
        for group, (part, (_, start, stop)) in enumerate(zip(parts, groups, strict=True)):
            rows, rows_grad = weight[start:stop], None if weight_grad is None else weight_grad[start:stop]
            size = positions_at_once(len(rows))
            for hidden, target, grad in zip(*(each.split(size) for each in part), strict=True):
                gradients = (grad, rows_grad) if differentiate else (None, None)
                sums[group] += RoutedCrossEntropy.of_chunk(hidden, rows, target - start, *gradients)
        ctx.groups, ctx.gradients = groups, (hidden_grad, weight_grad)
        return sums

    @staticmethod
    def of_chunk(hidden_states, rows, targets, hidden_grad, rows_grad) -> torch.Tensor:
        """The sum of some positions of one group; writes `hidden_grad` and adds to `rows_grad`, where they are."""
        log_probs = nn.functional.linear(hidden_states, rows).float().log_softmax(-1)
        summed = -log_probs.gather(-1, targets).sum()
        if hidden_grad is not None:
            ones = torch.ones_like(targets, dtype=log_probs.dtype)
            logits_grad = log_probs.exp_().scatter_add_(-1, targets, -ones).to(rows.dtype)
            torch.mm(logits_grad, rows, out=hidden_grad)
            if rows_grad is not None:
                rows_grad.addmm_(logits_grad.T, hidden_states)
        return summed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, sums_grad):
        if ctx.gradients is None:
            raise RuntimeError("ARM's loss takes one backward pass, which scales its gradients; call the model again.")
        (hidden_grad, weight_grad), ctx.gradients = ctx.gradients, None
        counts = [count for count, _, _ in ctx.groups]
        for scale, (_, start, stop), hidden in zip(sums_grad, ctx.groups, hidden_grad.split(counts), strict=True):
            hidden.mul_(scale)
            if weight_grad is not None:
                weight_grad[start:stop].mul_(scale)
        return hidden_grad, weight_grad, None, None, None


class RoutedLinear(nn.Linear):
    """The head: a Linear whose forward can be told which rows to multiply.

    A method of the module and not a slice of its weight, so that FSDP and ZeRO have gathered the weight by then.
    """

    def forward(
        self, hidden_states: torch.Tensor, start: int = 0, stop: int | None = None, *, targets=None, groups=None
    ) -> torch.Tensor:
        """[..., hidden_size] -> [..., stop - start], the logits of rows start..stop-1; or `RoutedCrossEntropy`."""
        if targets is None:
            return nn.functional.linear(hidden_states, self.weight[start:stop])
        device, weight = hidden_states.device.type, self.weight
        if torch.is_autocast_enabled(device):
            hidden_states, weight = (each.to(torch.get_autocast_dtype(device)) for each in (hidden_states, weight))
        return RoutedCrossEntropy.apply(hidden_states, weight, targets, groups, torch.is_grad_enabled())
