"""What a draw leaves and says: steps that are needed alone, results that train on, errors that tell what to change."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from generation_requests import GREEDY, PLAIN, draw, image_part, prompts, seed, with_pictures


class Rows:
    """A streamer."""

    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value)

    def end(self):
        self.ended = True


# --- steps that are needed -------------------------------------------------------------------------------------------


def source_of(model, grid):
    """A prompt with a picture of this grid, and the picture's codes [H * W]."""
    codes = torch.randint(0, 16, (grid[0] * grid[1],), generator=seed(2))
    ids = with_pictures(model.config, grid, text=prompts(1, 2))
    return model.model.place_image_tokens(ids, codes + model.config.visual_token_offset, "they"), codes


@pytest.mark.parametrize("drawn, steps", [([], 0), ([0], 1), ([0, 4], 5), ([2, 3], 4), ([8], 9)], ids=str)
def test_steps_after_the_last_token_that_is_drawn_are_not_run(model, drawn, steps):
    ids, codes = source_of(model, (3, 3))
    mask, read, recorder = torch.zeros(9, dtype=bool), [], Rows()
    mask[drawn] = True
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: read.append(args[0].numel()))
    given = {"edit_mask": mask.view(1, 3, 3), "generator": seed(1)}
    image = draw(model, ids, (3, 3), **given, streamer=recorder)
    assert read == ([ids.numel() + 3] + [1] * (steps - 1) if steps else [])
    assert torch.equal(image_part(model, image, (3, 3)).flatten()[~mask], codes[~mask])
    assert torch.equal(torch.cat(recorder.parts, 1), image[:, ids.shape[1] :]) and recorder.ended
    assert [part.shape[1] for part in recorder.parts] == [3, 3, 3, 3, 1]
    read.clear()
    output = draw(
        model, ids, (3, 3), **given | {"generator": seed(1)}, output_scores=True, return_dict_in_generate=True
    )
    assert torch.equal(output.sequences, image)  # of which all scores were asked for
    assert len(output.scores) == len(read) == 9 and all(scores.isfinite().all() for scores in output.scores)


def test_scores_are_those_that_tokens_were_drawn_from(shared):
    options = {"output_scores": True, "return_dict_in_generate": True, "top_k": 4, "num_return_sequences": 3}
    output = draw(shared, prompts(2), (2, 3), **options, generator=seed(1))
    assert len(output.scores) == 6 and len({scores.data_ptr() for scores in output.scores}) == 6
    codes = image_part(shared, output.sequences, (2, 3)).flatten(1)
    for step, scores in enumerate(output.scores):
        assert scores.shape == (6, 16) and ((scores > -torch.inf).sum(-1) == 4).all()
        assert scores.gather(-1, codes[:, step, None]).isfinite().all()


# --- training goes on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_results_can_be_trained_on_at_once(model, scores, attention):
    model.set_attn_implementation(attention)
    model.train()
    output = draw(model, prompts(2), (3, 3), output_scores=scores, return_dict_in_generate=True)
    results = [output.sequences, *(output.scores or ())]
    assert len(results) == 1 + 9 * scores and not any(each.is_inference() for each in results)
    model(output.sequences, labels=output.sequences).loss.backward()
    gradients = [p.grad for p in model.model.layers.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert not any(p.is_inference() for p in model.parameters())
    if scores:
        weight = torch.ones(16, requires_grad=True)
        (torch.stack(output.scores) * weight).sum().backward()
        assert weight.grad.isfinite().all()
    torch.optim.SGD(model.parameters(), 0.1).step()


# --- errors that tell what to change ---------------------------------------------------------------------------------


def test_a_lack_of_memory_says_what_takes_it(shared):
    """So much that no machine has it."""
    with pytest.raises(torch.OutOfMemoryError, match="draw 2 x 100000000000 images of 128x128 tokens") as caught:
        draw(shared, prompts(2), (128, 128), num_return_sequences=10**11)
    assert "Lower the batch, num_return_sequences or image_grid; guidance_scale=1 takes one" in str(caught.value)
    assert draw(shared, prompts(1), (1, 1)).shape == (1, 11)


def test_other_errors_stay_what_they_are(model):
    def failing(module, args):
        raise RuntimeError("something else")

    model.model.layers[0].register_forward_pre_hook(failing)
    with pytest.raises(RuntimeError, match="^something else$"):
        draw(model, prompts(1))


@pytest.mark.parametrize("sampling", [GREEDY, {}, {"top_k": 3, "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("steps", [range(0, 6), [2], [5]], ids=["from the first", "once", "the last"])
def test_logits_that_are_not_numbers_are_told_with_how_many_images_have_them(model, sampling, steps):
    calls, recorder = [], Rows()

    def broken(module, args, output):
        calls.append(1)
        if len(calls) - 1 in steps:
            output[1:3] = torch.nan
        return output

    model.lm_head.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="for 2 of 4 images are not numbers.* load them in bfloat16 or float32"):
        draw(model, prompts(4), (2, 3), streamer=recorder, **sampling)
    assert len(calls) == (3 if min(steps) < 3 else 6) and not recorder.ended  # at the end of the row


# --- seeds and threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_threads_that_draw_at_once_get_their_own_tokens(model, attention):
    model.set_attn_implementation(attention)

    def images(number):
        others = {"guidance_scale": 1.5, "negative_prompt_ids": prompts(2, 2)} if number % 2 else PLAIN
        settings = {"top_k": number % 3, "num_return_sequences": 1 + number % 2}
        return draw(model, prompts(2, 3 + number), (3, 4 + number), **others | settings, generator=seed(number))

    alone = [images(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(images, list(range(4)) * 3))
    assert all(torch.equal(image, alone[index % 4]) for index, image in enumerate(together))


def test_a_seed_draws_the_same_in_a_copy_of_the_model(shared):
    first, second = (draw(each, prompts(2), (3, 3), generator=seed(3)) for each in (shared, copy.deepcopy(shared)))
    assert torch.equal(first, second)
