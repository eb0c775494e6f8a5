"""Pictures become tokens in rows of ids, where placeholders stand for them.

Knows nothing about what a model makes of them, and where pictures come from.
"""

from collections.abc import Sequence

import torch


class ImageTokensMixin:
    """For a model with a visual tokenizer, `vq_model`, and an `ArmConfig`."""

    def get_image_tokens(
        self, pixel_values: torch.Tensor | Sequence[torch.Tensor]
    ) -> torch.LongTensor | list[torch.LongTensor]:
        """Pictures [B, 3, H, W] in -1..1 -> image token ids [B, H/patch, W/patch]; of a list [3, H, W], a list."""
        device, dtype, offset = self.vq_model.device, self.vq_model.dtype, self.config.visual_token_offset
        if isinstance(pixel_values, torch.Tensor):
            return self.vq_model.get_codes(pixel_values.to(device, dtype)) + offset
        codes = self.vq_model.get_codes([picture.to(device, dtype) for picture in pixel_values])
        return [grid + offset for grid in codes]

    @torch.compiler.disable
    def fill_image_tokens(
        self, input_ids: torch.LongTensor, pixel_values: torch.Tensor | Sequence[torch.Tensor]
    ) -> torch.LongTensor:
        """Puts the pictures' tokens, in order, where `input_ids` [B, T] hold `config.image_token_id`.

        Args:
            input_ids: [B, T]; returned with the placeholders replaced.
            pixel_values: [N, 3, H, W], or a list of N pictures [3, H, W] of any sizes on the patch grid.

        Raises:
            ValueError: no `input_ids`, or the pictures' tokens are more or fewer than the placeholders.
        """
        if input_ids is None:
            raise ValueError("pixel_values needs input_ids with placeholders for the pictures.")
        tokens = torch.cat([grid.flatten() for grid in self.get_image_tokens(pixel_values)])
        return self.place_image_tokens(input_ids, tokens, f"{len(pixel_values)} pictures")

    @torch.compiler.disable
    def fill_ids_and_labels(
        self,
        input_ids: torch.LongTensor | None,
        labels: torch.LongTensor | None,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None,
    ) -> tuple[torch.LongTensor | None, torch.LongTensor | None]:
        """Ids and labels [B, T] with the pictures' tokens in place, if there are pictures; else as they are.

        Compiled code calls this without a look at `pixel_values`, or it would be compiled again for each number of
        pictures.
        """
        if pixel_values is None:
            return input_ids, labels
        filled = self.fill_image_tokens(input_ids, pixel_values)
        if labels is not None:  # commonly a copy of the ids as they came
            placed = (input_ids == self.config.image_token_id) & (labels == self.config.image_token_id)
            labels = torch.where(placed, filled, labels)
        return filled, labels

    def place_image_tokens(self, input_ids: torch.LongTensor, tokens: torch.LongTensor, what: str) -> torch.LongTensor:
        """Puts image tokens [n] where `input_ids` [B, T] hold `config.image_token_id`; `what` they come from.

        Raises:
            ValueError: there are more or fewer tokens than placeholders.
        """
        places = input_ids == self.config.image_token_id
        if int(places.sum()) != len(tokens):
            raise ValueError(
                f"{what} give {len(tokens)} image tokens, but input_ids hold {int(places.sum())} placeholders "
                f"(id {self.config.image_token_id}); prepare both with one ArmProcessor call."
            )
        return input_ids.masked_scatter(places, tokens.to(input_ids))
