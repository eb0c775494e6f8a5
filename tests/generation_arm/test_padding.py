"""What is written does not depend on where prompts are padded: positions come from the mask, or it is refused."""

import pytest
import torch
from generation_requests import GREEDY, PLAIN, draw, image_part, left_padded, pictures, prompts, with_pictures

from transformers_arm.prompts_arm import padded_left

LENGTHS = (3, 7, 5)


@pytest.fixture
def rows():
    return [prompts(1, length, seed=length)[0] for length in LENGTHS]


def padded(rows, side):
    """Rows -> ids and mask, padded on a side, or in the middle."""
    ids, mask = left_padded([row.tolist() for row in rows])
    if side == "left":
        return ids, mask
    out, kept = torch.zeros_like(ids), torch.zeros_like(mask)
    for row, (each, real) in enumerate(zip(ids, mask.bool(), strict=True)):
        places = torch.arange(int(real.sum()))
        if side == "middle":
            places[1:] += len(each) - len(places)
        out[row, places], kept[row, places] = each[real], 1
    return out, kept


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("mode", ["image", "text", "interleaved"])
def test_what_is_written_is_what_each_prompt_gives_alone(shared, rows, mode, side):
    options = {"image_grid": (2, 3), **PLAIN} if mode == "image" else {"max_new_tokens": 8}
    options |= {"generation_mode": mode, "pad_token_id": 8} if mode != "image" else {"generation_mode": mode}
    ids, mask = padded(rows, side)
    written = shared.generate(ids, attention_mask=mask, **options, **GREEDY)
    for row, alone in zip(written[:, ids.shape[1] :], rows, strict=True):
        expected = shared.generate(alone[None], **options, **GREEDY)[0, len(alone) :]
        assert torch.equal(row[: len(expected)], expected)


@pytest.mark.parametrize("side", ["right", "middle"])
def test_every_branch_of_guidance_may_be_padded_anywhere(shared, rows, side):
    others = [prompts(1, length, seed=9 + length)[0] for length in (4, 2, 6)]
    guided = {"guidance_scale": 3.0, **GREEDY}
    ids, mask = padded(rows, side)
    negative, negative_mask = padded(others, side)
    options = {"negative_prompt_ids": negative, "negative_prompt_attention_mask": negative_mask}
    drawn = image_part(shared, draw(shared, ids, attention_mask=mask, **options, **guided), (2, 3))
    for row, alone, other in zip(drawn, rows, others, strict=True):
        expected = draw(shared, alone[None], negative_prompt_ids=other[None], **guided)
        assert torch.equal(row[None], image_part(shared, expected, (2, 3)))


@pytest.mark.parametrize("side", ["right", "middle"])
def test_edits_may_be_padded_anywhere(shared, side):
    """Their pictures fill placeholders in order, wherever those come to stand."""
    config, sources = shared.config, pictures((1, 2), (2, 1))
    asked = [with_pictures(config, grid, text=prompts(1, length))[0] for grid, length in (((1, 2), 3), ((2, 1), 6))]
    alone = [with_pictures(config, grid, text=prompts(1, 1))[0] for grid in ((1, 2), (2, 1))]
    nothing = [prompts(1, 2, seed=4)[0]] * 2
    names = ("", "image_prompt_", "negative_prompt_")
    guided = {"guidance_scale": 2.0, "image_guidance_scale": 1.5, **GREEDY}

    def edit(batch, pixel_values, where):
        inputs = {}
        for name, each in zip(names, batch, strict=True):
            ids, mask = padded(each, where)
            inputs |= {f"{name}ids" if name else "input_ids": ids, f"{name}attention_mask": mask}
        drawn = draw(shared, **inputs, pixel_values=pixel_values, **guided)
        return image_part(shared, drawn, (2, 3))

    together = edit((asked, alone, nothing), sources, side)
    for row in range(2):
        one = edit([each[row : row + 1] for each in (asked, alone, nothing)], [sources[row]], "left")
        assert torch.equal(together[row : row + 1], one)


def test_results_have_their_prompts_on_the_right(shared, rows):
    ids, mask = padded(rows, "right")
    expected, _ = padded(rows, "left")
    assert torch.equal(draw(shared, ids, attention_mask=mask, **GREEDY)[:, : ids.shape[1]], expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("branch", ["input_ids", "negative_prompt_ids"])
def test_padding_without_a_mask_is_refused(model, side, branch):
    model.generation_config.pad_token_id = 8
    ids = prompts(2)
    ids[0, [0] if side == "left" else [-1]] = 8
    given = {"input_ids": prompts(2), "negative_prompt_ids": prompts(2), branch: ids}
    with pytest.raises(ValueError, match=f"{branch} begins or ends with the padding 8 .* pass the mask"):
        draw(model, **given, guidance_scale=2.0)
    mask = {"input_ids": "attention_mask", "negative_prompt_ids": "negative_prompt_attention_mask"}[branch]
    draw(model, **given, guidance_scale=2.0, **{mask: torch.ones_like(ids)})  # where somebody says it is none


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask of here \[2, 5\] must be \[2, 6\]"):
        padded_left(prompts(2), torch.ones(2, 5), None, "here")
