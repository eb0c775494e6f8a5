"""Pictures of one's own train what renders a tokenizer as they train the tokenizer: sized, held out and looked at."""

import json

import pytest
import torch
from picture_rows import captioned_folder
from PIL import Image
from short_trainings import MODEL

from transformers_arm import ArmImageProcessor, ArmVQForPreTraining
from transformers_arm.renderers_arm import detokenizer_class
from transformers_arm.training.detokenizer import DetokenizerRecipe, DetokenizerTraining, train_detokenizer
from transformers_arm.training.recipe import RecipeError, parse
from transformers_arm.training.renderer import RendererRecipe
from transformers_arm.training.tokenizer import TokenizerRecipe, train_tokenizer

TRAINING = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 1}
TRAINING |= {"max_steps": 2, "save_steps": 1}
LOOKS = {"validation": {"rows": 4, "every": 1}, "evaluation": {"every": 1, "steps": 1}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = captioned_folder(tmp_path_factory.mktemp("pictures") / "own", [f"picture {n}" for n in range(12)])
    sources = {"own": {"dataset": {"path": "imagefolder", "data_dir": folder}}}
    return {"pixel_budget": 4 * 48 * 48, "streams": 1, "sources": sources}


@pytest.fixture(scope="module")
def tokenizer(tiny_backbones, pictures, tmp_path_factory):
    """The output of a tokenizer's training."""
    output = tmp_path_factory.mktemp("run") / "tokenizer"
    recipe = {"output_dir": str(output), "backbones": tiny_backbones, "model": MODEL, "data": pictures}
    recipe |= {"image_processor": {"size": {"height": 48, "width": 48}}, "training": TRAINING}
    train_tokenizer(parse(TokenizerRecipe, recipe, "recipe"))
    return output


def detokenizer_recipe(pretraining, output, data, **sections):
    recipe = {"output_dir": str(output), "pretraining": str(pretraining), "data": data, "training": TRAINING}
    recipe |= {"regression_share": 0.5, "condition_dropout": 0.1, "pipeline_defaults": {"default_steps": 1}}
    return parse(DetokenizerRecipe, recipe | sections, "recipe")


@pytest.mark.parametrize("folder", ["pretraining", "checkpoint-2"])
def test_a_detokenizer_learns_from_own_pictures_and_shows_what_it_makes_of_held_out_ones(
    tokenizer, pictures, tmp_path, folder
):
    train_detokenizer(detokenizer_recipe(tokenizer / folder, tmp_path, pictures, **LOOKS))
    history = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    for name in ("eval_own_loss", "eval_psnr", "eval_retrieval", "eval_codes_used"):
        assert [log["step"] for log in history if name in log] == [1, 2], name
    sheet = Image.open(tmp_path / "reconstructions" / "step-0000002.png")
    assert sheet.size == (4 * 48, 2 * 48)  # as the tokenizer's image processor sizes them
    detokenizer = detokenizer_class(tmp_path / "detokenizer").from_pretrained(tmp_path / "detokenizer")
    detokenizer.vq_model = ArmVQForPreTraining.from_pretrained(tokenizer / folder).vq_model.eval()
    assert detokenizer(codes=torch.zeros(1, 3, 3, dtype=torch.long)).images[0].size == (48, 48)


def test_it_goes_on_from_its_checkpoint_with_the_rows_behind_it_and_no_further_than_its_end(
    tokenizer, pictures, tmp_path
):
    def trained(name):
        training = {"training": TRAINING | {"lr_scheduler_type": "constant"}}
        train_detokenizer(detokenizer_recipe(tokenizer / "pretraining", tmp_path / name, pictures, **training))
        return (tmp_path / name / "detokenizer/transformer/diffusion_pytorch_model.safetensors").read_bytes()

    whole = trained("whole")
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-1").rename(tmp_path / "resumed" / "checkpoint-1")
    assert trained("resumed") == whole
    assert trained("whole") == whole  # there is nothing left to train


def test_a_short_row_counts_by_its_pictures(tokenizer):
    pretraining = ArmVQForPreTraining.from_pretrained(tokenizer / "pretraining")
    model, pixels = DetokenizerTraining(pretraining, 0.5, 0.1), torch.rand(3, 3, 48, 48) * 2 - 1
    torch.manual_seed(0)
    whole = model(pixels)["loss"].item()
    torch.manual_seed(0)
    assert model(pixels, num_items_in_batch=12)["loss"].item() == pytest.approx(whole / 4)


def test_a_tokenizer_that_does_not_say_how_pictures_are_sized_is_refused(tokenizer, pictures, tmp_path):
    ArmVQForPreTraining.from_pretrained(tokenizer / "pretraining").save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare has no image processor.* Copy preprocessor_config.json"):
        train_detokenizer(detokenizer_recipe(tmp_path / "bare", tmp_path / "out", pictures))


@pytest.mark.parametrize("folder", ["pretraining", "checkpoint-2", "vq_model"])
def test_every_folder_of_a_tokenizer_says_how_pictures_are_sized(tokenizer, folder):
    processor = ArmImageProcessor.from_pretrained(tokenizer / folder)
    assert (dict(processor.size), processor.patch_size) == ({"height": 48, "width": 48}, 16)


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        (TokenizerRecipe, {"backbones": {"vision": "a"}}),
        (DetokenizerRecipe, {"pretraining": "a", "regression_share": 0.5, "condition_dropout": 0.1}),
        (RendererRecipe, {"vq_model": "a", "base": "b"}),
    ],
)
def test_stages_of_pictures_have_one_rule(kind, recipe, pictures):
    recipe = {"output_dir": "out", "training": TRAINING, "pipeline_defaults": {}, **recipe}
    if kind is TokenizerRecipe:
        del recipe["pipeline_defaults"]
    with pytest.raises(RecipeError, match="evaluation: it looks at held-out pictures of the sources; add validation"):
        parse(kind, {**recipe, "data": pictures, "evaluation": {}}, "recipe")
    assert parse(kind, {**recipe, "data": pictures, **LOOKS}, "recipe").drawn is False
    world = {**recipe, "data": {"world": "shapes"}}
    assert parse(kind, {**world, "evaluation": {}}, "recipe").drawn is True
    with pytest.raises(RecipeError, match="validation.sources: the data are a world's"):
        parse(kind, {**world, "validation": {"sources": pictures["sources"]}}, "recipe")
    if kind is not TokenizerRecipe:
        with pytest.raises(RecipeError, match="image_processor: the data are a world's"):
            parse(kind, {**world, "image_processor": {"size": {"height": 32, "width": 32}}}, "recipe")
