"""ARM's head, and the loss of text and image tokens: softmax over the head's rows that can follow, in chunks.

Knows nothing about which rows can follow where; `modeling_arm` does.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26  # that losses and log-probabilities keep: 256 MiB in fp32, 1,024 positions over 65,536 codes


def positions_at_once(rows: int) -> int:
    """How many positions over so many rows a chunk has: at least one, and no more than `LOGITS_AT_ONCE` allows."""
    return max(1, LOGITS_AT_ONCE // rows)


class RoutedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of groups of positions, each of which takes the softmax over some of the head's rows.

    The gradients are made in the forward pass: so the logits of one chunk of positions are all there ever are, and
    nothing is multiplied twice. They are one table for all rows; autograd would make one for each group, and add.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, targets, groups, differentiate: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One fp32 sum a group, and the losses [N] that are summed, which have no gradients.

        Args:
            hidden_states: [N, hidden_size], group after group; weight: [vocab_size, hidden_size].
            targets: ids [N] among the rows of their group.
            groups: of each the number of its positions, and its rows: (count, start, stop).
            differentiate: whether there will be a backward pass; `torch.is_grad_enabled()`, which is off in here.
        """
        counts = [count for count, _, _ in groups]
        sums = hidden_states.new_zeros(len(groups), dtype=torch.float32)
        losses = hidden_states.new_empty(len(targets), dtype=torch.float32)
        hidden_grad = torch.zeros_like(hidden_states)
        weight_grad = torch.zeros_like(weight) if differentiate and ctx.needs_input_grad[1] else None
        split = (part.split(counts) for part in (hidden_states, targets[:, None], losses, hidden_grad))
        for group, (parts, (_, start, stop)) in enumerate(zip(zip(*split, strict=True), groups, strict=True)):
            rows, rows_grad = weight[start:stop], None if weight_grad is None else weight_grad[start:stop]
            size = positions_at_once(len(rows))
            for hidden, target, loss, grad in zip(*(part.split(size) for part in parts), strict=True):
                gradients = (grad, rows_grad) if differentiate else (None, None)
                loss.copy_(RoutedCrossEntropy.of_chunk(hidden, rows, target - start, *gradients))
                sums[group] += loss.sum()
        ctx.groups, ctx.gradients = groups, (hidden_grad, weight_grad)
        ctx.mark_non_differentiable(losses)
        return sums, losses

    @staticmethod
    def of_chunk(hidden_states, rows, targets, hidden_grad, rows_grad) -> torch.Tensor:
        """The losses of some positions of one group; writes `hidden_grad` and adds to `rows_grad`, where they are."""
        log_probs = nn.functional.linear(hidden_states, rows).float().log_softmax(-1)
        losses = -log_probs.gather(-1, targets)[:, 0]
        if hidden_grad is not None:
            ones = torch.ones_like(targets, dtype=log_probs.dtype)
            logits_grad = log_probs.exp_().scatter_add_(-1, targets, -ones).to(rows.dtype)
            torch.mm(logits_grad, rows, out=hidden_grad)
            if rows_grad is not None:
                rows_grad.addmm_(logits_grad.T, hidden_states)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, sums_grad, _):
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
    """The head: a Linear whose weight others put to use, in a call of it.

    Not from outside, so that FSDP, ZeRO and hooks have the weight in place by then.
    """

    def forward(self, hidden_states: torch.Tensor, use: Callable = nn.functional.linear, *arguments):
        """`use(hidden_states, weight, *arguments)`, weight [vocab_size, hidden_size]: by default all logits."""
        return use(hidden_states, self.weight, *arguments)


def linear_rows(hidden_states: torch.Tensor, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """[..., hidden_size] -> logits [..., stop - start] of rows start..stop-1."""
    return nn.functional.linear(hidden_states, weight[start:stop])


def linear_groups(hidden_states: torch.Tensor, weight: torch.Tensor, groups) -> tuple[torch.Tensor, ...]:
    """[N, hidden_size], group after group -> the logits of each over its rows; `groups` as in `RoutedCrossEntropy`."""
    parts = hidden_states.split([count for count, _, _ in groups])
    return tuple(linear_rows(part, weight, *rows) for part, (_, *rows) in zip(parts, groups, strict=True))


def cross_entropies(hidden_states, weight, targets, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """`RoutedCrossEntropy`, under autocast as well."""
    device = hidden_states.device.type
    if torch.is_autocast_enabled(device):
        hidden_states, weight = (each.to(torch.get_autocast_dtype(device)) for each in (hidden_states, weight))
    return RoutedCrossEntropy.apply(hidden_states, weight, targets, groups, torch.is_grad_enabled())


def head_with_weight(head: nn.Module) -> Callable | None:
    """What takes the arguments of `RoutedLinear.forward` for a head as it stands in the model, or None.

    All that is known here of what PEFT, or a quantizer, puts into the head's place. A copy of the head that is trained
    (`modules_to_save`) is called as the head is. Where some rows are trained (`trainable_token_indices`), the wrapper
    has a weight, in which they are put in place, but its own call would drop the arguments. Anything else, whatever it
    does to hidden states and logits, can only be asked for the logits of all rows: None.
    """
    if hasattr(head, "token_adapter"):
        return partial(RoutedLinear.forward, head)
    copies = getattr(head, "modules_to_save", None)
    heads = [head] if copies is None else [head.original_module, *copies.values()]
    return head if all(isinstance(each, RoutedLinear) for each in heads) else None


def check_shared_table(name: str, module: nn.Module) -> None:
    """Refuses what PEFT puts on one of embedding and head where both are one table: merged, it would change both.

    Trained rows of the embedding are those of the head as well: PEFT ties their adapters.

    Raises:
        ValueError: another adapter with a `base_layer` that it is merged into.
    """
    rows = hasattr(module, "trainable_tokens_delta") and (name == "embed_tokens" or module.tied_adapter is not None)
    if hasattr(module, "base_layer") and not rows:
        raise ValueError(
            f"{type(module).__module__}.{type(module).__name__} on {name}: embedding and head are one table of this "
            "model (tie_word_embeddings), so merging the adapter of one would change the other. Leave both out of "
            "target_modules, and train the head whole, modules_to_save=['lm_head'], or rows of the table, "
            "trainable_token_indices (of images: sizes.adapters.lora_config(model, visual_rows=True))."
        )


def row_logits(head: nn.Module, hidden_states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """[..., hidden_size] -> logits [..., stop - start] of rows start..stop-1 of a head, whatever is put around it."""
    call = head_with_weight(head)
    logits = head(hidden_states)[..., start:stop] if call is None else call(hidden_states, linear_rows, start, stop)
    return logits.to(hidden_states.device)  # a device map can set the head apart from what comes before it


def group_logits(head: nn.Module, hidden_states: torch.Tensor, groups) -> tuple[torch.Tensor, ...]:
    """`linear_groups` of a head, whatever is put around it, in one call of it, as many groups as there are.

    So processes that share a sharded head (ZeRO-3) gather it equally often, whatever each of them writes.
    """
    call = head_with_weight(head)
    if call is None:
        parts = head(hidden_states).split([count for count, _, _ in groups])
        logits = [part[:, start:stop] for part, (_, start, stop) in zip(parts, groups, strict=True)]
    else:
        logits = call(hidden_states, linear_groups, groups)
    return tuple(part.to(hidden_states.device) for part in logits)


def row_losses(head: nn.Module, hidden_states, targets, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """`RoutedCrossEntropy` of a head, whatever is put around it; arguments and results as there, without weight."""
    if (call := head_with_weight(head)) is not None:
        return tuple(part.to(hidden_states.device) for part in call(hidden_states, cross_entropies, targets, groups))

    def of_chunk(hidden, target, start, stop):
        logits = row_logits(head, hidden, start, stop).float()
        return nn.functional.cross_entropy(logits, target - start, reduction="none")

    size = positions_at_once(max(stop for _, _, stop in groups))  # of all rows, which are multiplied
    counts = [count for count, _, _ in groups]
    losses = []
    for hidden, target, (_, *rows) in zip(hidden_states.split(counts), targets.split(counts), groups, strict=True):
        chunks = zip(hidden.split(size), target.split(size), strict=True)
        losses.append(torch.cat([checkpoint(of_chunk, *chunk, *rows, use_reentrant=False) for chunk in chunks]))
    return torch.stack([each.sum() for each in losses]), torch.cat(losses).detach()
