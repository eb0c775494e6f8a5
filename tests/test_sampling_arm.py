"""Codes are chosen as transformers' warpers would have it, by numbers that each image has for itself."""

import numpy as np
import pytest
import torch
from generation_requests import assert_follows, seed
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from transformers_arm.sampling_arm import ImageSampling, check_generators, uniforms, with_likeliest

SETTINGS = [
    {},
    {"top_k": 5},
    {"top_p": 0.7},
    {"top_k": 9, "top_p": 0.6},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 12, "top_p": 0.95},
]


def warped(scores, temperature=1.0, top_k=0, top_p=1.0):
    """By transformers, in the order of its `generate`."""
    if temperature != 1:
        scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    return TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores


def random_scores(rows, codes, number=0):
    return torch.randn(rows, codes, generator=seed(number)) * 3


def tied_scores(rows, codes):
    """Whole numbers, so that most codes are as likely as others."""
    return torch.randint(-3, 4, (rows, codes), generator=seed(1)).float()


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [*SETTINGS, {"top_k": 1}, {"top_p": 1e-6}, {"top_k": 500}], ids=str)
def test_what_is_kept_is_what_transformers_keeps(settings):
    logits, sampling = random_scores(50, 100), ImageSampling(**settings)
    kept = sampling.kept(sampling.scores(logits[None]))
    torch.testing.assert_close(kept, warped(logits, **settings), rtol=0, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 10, 60])
def test_codes_as_likely_as_the_last_of_the_k_are_kept_too(top_k):
    scores = tied_scores(40, 64)
    kept = ImageSampling(top_k=top_k).kept(scores)
    assert torch.equal(kept, warped(scores, top_k=top_k))
    assert ((kept > -torch.inf).sum(-1) > top_k).any()


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9])
def test_codes_as_likely_as_the_last_of_the_nucleus_are_kept_too(top_p):
    """Transformers drops some of those, by their order alone."""
    scores = tied_scores(40, 64)
    kept, theirs = ImageSampling(top_p=top_p).kept(scores), warped(scores, top_p=top_p)
    least = theirs.masked_fill(theirs == -torch.inf, torch.inf).amin(-1, keepdim=True)
    assert torch.equal(kept, scores.masked_fill(scores < least, -torch.inf)) and not torch.equal(kept, theirs)


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-9])
def test_a_temperature_of_nothing_takes_the_likeliest(temperature):
    settings = with_likeliest({"temperature": temperature, "top_k": 5})
    assert settings == {"temperature": 1.0, "do_sample": False, "top_k": 5} and not ImageSampling(**settings).do_sample
    for others in ({}, {"temperature": 0.5}, {"temperature": -1}):
        assert with_likeliest(others) == others


def test_the_likeliest_code_needs_no_settings():
    scores = random_scores(3, 20)
    assert torch.equal(ImageSampling(do_sample=False, top_k=2, top_p=0.1).kept(scores), scores)
    assert torch.equal(ImageSampling(do_sample=False, temperature=9.0).scores(scores[None]), scores)


# --- what is chosen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [random_scores(400, 37), tied_scores(400, 37)], ids=["random", "ties"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_not_kept_is_never_chosen(settings, scores):
    sampling = ImageSampling(**settings)
    scores = scores.clone()
    scores[:, [0, -1]] -= 200.0  # of no probability in fp32, at the ends of the sum
    kept = sampling.kept(scores).softmax(-1) > 0
    ends = [torch.zeros(400, 1), torch.full((400, 1), 1 - 2**-24), torch.full((400, 1), 2**-24)]
    for uniform in (*ends, *torch.rand(50, 400, 1, generator=seed(2))):
        codes = sampling.choose(scores, uniform)
        assert codes.max() < 37 and kept.gather(-1, codes[:, None]).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_choices_follow_the_softmax_of_what_is_kept(settings):
    logits, sampling = random_scores(1, 25) / 4, ImageSampling(**settings)
    scores = sampling.scores(logits[None]).expand(20_000, -1).contiguous()
    codes = sampling.choose(scores, uniforms(20_000, 1, seed(3)))
    assert_follows(torch.bincount(codes, minlength=25), warped(logits, **settings)[0].double().softmax(-1))


def test_the_likeliest_code_is_chosen_without_sampling():
    scores = random_scores(30, 20)
    assert torch.equal(ImageSampling(do_sample=False).choose(scores, torch.rand(30, 1)), scores.argmax(-1))


@pytest.mark.parametrize("settings", [*SETTINGS, {"top_k": 1}, {"do_sample": False}], ids=str)
@pytest.mark.parametrize("place", [0, 7, slice(None)], ids=str)
def test_scores_that_are_not_numbers_give_no_code_and_leave_other_rows_alone(settings, place):
    scores, uniform = random_scores(3, 16), torch.rand(3, 1, generator=seed(0))
    sampling = ImageSampling(**settings)
    expected = sampling.choose(scores, uniform)
    scores[1, place] = torch.nan
    expected[1] = 16
    assert torch.equal(sampling.choose(scores, uniform), expected)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_generator_a_row_makes_it_independent_of_its_batch():
    together = uniforms(3, 7, [seed(number) for number in (4, 5, 6)])
    assert together.shape == (3, 7) and len(together.unique()) == 21
    assert 0 <= together.min() and together.max() < 1
    for number, row in zip((4, 5, 6), together, strict=True):
        assert torch.equal(uniforms(1, 7, seed(number))[0], row)
        assert torch.equal(uniforms(1, 7, (seed(number),))[0], row)


def test_a_generator_draws_the_same_whatever_device_asks():
    """The meta device stands for one that is not here: drawing there would leave the generator as it was."""
    here, there = seed(1), seed(1)
    uniforms(2, 3, here)
    assert uniforms(2, 3, there, "meta").device.type == "meta"
    assert torch.equal(here.get_state(), there.get_state()) and not torch.equal(here.get_state(), seed(1).get_state())
    uniforms(2, 3, [here, here]), uniforms(2, 3, [there, there], "meta")
    assert torch.equal(here.get_state(), there.get_state())


def test_without_a_generator_torch_s_own_draws():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = uniforms(2, 3)
        torch.manual_seed(3)
        assert torch.equal(uniforms(2, 3), first)
        mixed = uniforms(2, 3, [None, seed(3)])
    assert torch.equal(mixed[1], uniforms(1, 3, seed(3))[0]) and not torch.equal(mixed[0], mixed[1])


@pytest.mark.parametrize(
    "generator", [7, np.random.default_rng(0), [1, 2], "ab"], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize("check", [check_generators, lambda images, generator: uniforms(images, 4, generator)])
def test_other_kinds_of_generators_are_refused(check, generator):
    with pytest.raises(TypeError, match=r"a list with one for each image, not .*manual_seed\(0\) makes one"):
        check(2, generator)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_generators_of_another_number_are_refused(count):
    with pytest.raises(ValueError, match=f"Got {count} generators for 2 images; give one for all or one an image"):
        uniforms(2, 4, [seed(0)] * count)
