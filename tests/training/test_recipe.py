"""Recipes: read as they stand, replaced in part, checked to the last field, and told of in full."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from transformers_arm import cli
from transformers_arm.training.recipe import RecipeError, load_yaml, overridden, read_recipe, shipped_recipes
from transformers_arm.training.stages import STAGES, find_stage, read_stage

STAGE_OF = {
    "continual": "pretrain",
    "tokenizer_context": "tokenizer",
    "tokenizer_detail": "tokenizer",
    "ablation": "tokenizer",
    "photographs": "tokenizer",
}


def stage_of(name: str) -> str:
    """The stage of a shipped recipe."""
    file = name.partition("/")[2]
    if file.startswith("detokenizer_"):
        return "renderer"
    return "grpo" if file.startswith("grpo_") else STAGE_OF.get(file, file)


# --- YAML and overrides ----------------------------------------------------------------------------------------------

RECIPE = "output_dir: out\nstages: [a, b]\ntraining: {seed: 1, learning_rate: 2e-3}\na: {b: {c: 1}}\n"


def replaced(*overrides: str) -> dict:
    return overridden(load_yaml(RECIPE, "recipe.yaml"), overrides)


def test_a_recipe_is_read_as_it_stands():
    assert replaced() == {
        **{"output_dir": "out", "stages": ["a", "b"]},
        **{"training": {"seed": 1, "learning_rate": 0.002}, "a": {"b": {"c": 1}}},
    }


def test_overrides_replace_and_add_values_of_any_type():
    recipe = replaced(
        *("output_dir=elsewhere", "stages=[a]", "training.seed=5", "training.learning_rate=1e-4", "a.b.c=null"),
        *("training.disable_tqdm=true", "training.run_name=x=y", "training.adam_epsilon=1.5e-8", "new.section.x=1"),
    )
    assert recipe["output_dir"] == "elsewhere" and recipe["stages"] == ["a"] and recipe["a"]["b"]["c"] is None
    assert recipe["training"] == {
        **{"seed": 5, "learning_rate": 0.0001, "disable_tqdm": True},
        **{"run_name": "x=y", "adam_epsilon": 1.5e-8},
    }
    assert recipe["new"] == {"section": {"x": 1}}


def test_what_only_looks_like_a_number_stays_text():
    recipe = replaced(
        "a.b.c=e5", "training.seed=-3", "training.name=2e-3x", "training.commit=1e", "training.max=+1.e3"
    )
    assert recipe["a"]["b"]["c"] == "e5" and recipe["training"]["seed"] == -3
    assert [recipe["training"][name] for name in ("name", "commit", "max")] == ["2e-3x", "1e", 1000.0]


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "n", "y", "No", "ON"])
def test_words_are_no_truths(word):
    assert replaced(f"training.save_strategy={word}")["training"]["save_strategy"] == word
    assert load_yaml(f"[{word}, true, False]", "here") == [word, True, False]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed", "'training.seed' is no override; write section.key=value"),
        ("=1", "'=1' is no override"),
        ("training..seed=1", "'training..seed=1' is no override"),
        ("stages.0=c", "stages.0: stages is a list, which has no '0'; replace it as a whole, as in 'stages=...'"),
        ("training.seed.x=1", "training.seed.x: training.seed is a value, which has no 'x'"),
        ("a.b=[1", "the override a.b, line 1"),
    ],
)
def test_an_override_that_cannot_be_is_refused_with_the_place(override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        replaced(override)


def test_one_place_is_not_replaced_twice():
    with pytest.raises(RecipeError, match="training.seed is given twice on the command line"):
        replaced("training.seed=1", "training.seed=2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "recipe.yaml, line 1"),
        ("a: 1\nb: {c: 1, c: 2}", "recipe.yaml, line 2, column 11: 'c' stands twice, first in line 2; keep one"),
        ("a: 1\na: 2", "'a' stands twice, first in line 1"),
        ("a: !!python/object:os.system 1", "recipe.yaml, line 1"),
        ("a: \x00", "recipe.yaml"),
    ],
)
def test_yaml_that_cannot_be_read_is_refused_in_one_line(text, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as refused:
        load_yaml(text, "recipe.yaml")
    assert "\n" not in str(refused.value)


# --- the recipes that ship -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_fits_its_stage_and_no_other(name):
    stage = stage_of(name)
    assert read_stage(stage, name).output_dir == read_stage(stage, f"{name}.yaml").output_dir
    others = [other for other in STAGES if find_stage(other)[0] is not find_stage(stage)[0]]
    for other in others:
        with pytest.raises(RecipeError, match=f"{name} is a recipe of another stage: .*{stage}"):
            read_stage(other, name)


def test_all_stages_have_a_shipped_recipe():
    assert {stage_of(name) for name in shipped_recipes()} == set(STAGES)


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("arm_tiny/sft", "dtyp=float32", "dtyp: there is no such field; did you mean dtype?"),
        ("arm_tiny/sft", "evaluaton={}", "evaluaton: there is no such field; did you mean evaluation?"),
        ("arm_tiny/sft", "sample={}", "sample: there is no such field; did you mean samples?"),
        ("arm_tiny/sft", "training.learning_rat=1", "training.learning_rat: there is no such field; did you mean"),
        ("arm_tiny/sft", "evaluation.evry=1", "evaluation.evry: there is no such field; did you mean every?"),
        ("arm_tiny/sft", "lora.rr=1", "lora.rr: there is no such field"),
        ("arm_tiny/sft", "data.argument={}", "data.argument: there is no such field; did you mean arguments?"),
        ("arm_tiny/sft", "data.arguments.questionz=1", "data.arguments.questionz: there is no such field; did"),
        ("arm_tiny/sft", "data.world=shape", "data.world: There is no world 'shape', but emoji, shapes"),
        ("arm_tiny/sft", "generation.max_new_token=1", "generation.max_new_token: generate does not know it; did"),
        (
            *("arm_tiny/sft", "generation.image_generation.top_q=1"),
            "generation.image_generation.top_q: generate does not know it; did you mean top_p?",
        ),
        ("arm_7b/pretrain", "data.sources.web.weigth=1", "data.sources.web.weigth: there is no such field; did"),
        ("arm_7b/pretrain", "data.sources.web.world=shapes", "data.sources.web: a source needs either 'dataset'"),
        ("arm_7b/pretrain", "data.tokens=1", "data.tokens: there is no such field"),
        ("arm_7b/pretrain", "backbones={text: a, vq: b}", "start_from: state either start_from"),
        ("arm_7b/pretrain", "evaluation={detokenizer: x}", "evaluation.world: the data are of no world"),
        ("arm_7b/pretrain", "quantization={}", "quantization: it is for a model that is there (start_from)"),
        ("arm_tiny/tokenizer", "model.fsq_level=[2]", "model.fsq_level: there is no such field; did you"),
        ("arm_tiny/tokenizer", "model.hidden_size=3", "model.hidden_size: there is no such field"),
        (
            *("arm_tiny/tokenizer", "data.arguments.canvases=[{height: 48, widht: 48}]"),
            "data.arguments.canvases.0.widht: there is no such field; did you mean width?",
        ),
        ("arm_7b/tokenizer", "evaluation={every: 5}", "evaluation: it looks at held-out pictures of the sources"),
        ("arm_7b/tokenizer", "validation={rows: 0}", "validation.rows: 0 does not fit: Input should be"),
        ("arm_7b/pretrain", "validation={evry: 5}", "validation.evry: there is no such field; did you mean every?"),
        ("arm_tiny/sft", "validation={sources: {a: {world: shapes}}}", "validation.sources: the data are a world's"),
        ("arm_7b/tokenizer", "image_processor.siez={}", "image_processor.siez: there is no such field; did"),
        ("arm_tiny/backbones", "siglip.model.vision_config.patch=8", "siglip.model.vision_config.patch: there"),
        ("arm_tiny/backbones", "qwen2=null", "qwen2: it is missing, but stages names it"),
        ("arm_tiny/detokenizer", "pipeline_defaults.default_step=1", "pipeline_defaults.default_step: there"),
        ("arm_tiny/grpo_joint", "rewards=[{rewards: x}]", "rewards.0.rewards: there is no such field; did you mean"),
        ("arm_tiny/grpo_joint", "rewards.weight=1", "rewards.weight: rewards is a list"),
        ("arm_tiny/grpo_joint", "training.temperatur=1", "training.temperatur: there is no such field; did you"),
        ("arm_tiny/grpo_joint", "attn_implementation=eager", "attn_implementation: there is no such field"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_refused_at_any_depth_with_the_nearest(name, override, message):
    with pytest.raises(RecipeError, match=re.escape(f"{name}: {message}" if "is a list" not in message else message)):
        read_stage(stage_of(name), name, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate=fast", "training.learning_rate: 'fast' does not fit: .* It takes float"),
        ("training.max_steps=1.5", "training.max_steps: 1.5 does not fit: .* It takes int"),
        ("training.bf16=maybe", "training.bf16: 'maybe' does not fit: .* It takes bool"),
        ("output_dir=[a]", r"output_dir: \['a'\] does not fit: .* It takes str"),
        ("evaluation.count=many", "evaluation.count: 'many' does not fit: .* It takes int"),
        ("data.arguments.described=often", "data.arguments.described: 'often' does not fit: .* It takes float"),
        ("training=5", "training: 5 does not fit"),
    ],
)
def test_a_wrong_type_names_the_field_and_what_it_takes(override, message):
    with pytest.raises(RecipeError, match=message):
        read_stage("sft", "arm_tiny/sft", [override])


def test_save_strategy_no_is_the_word():
    assert read_stage("sft", "arm_tiny/sft", ["training.save_strategy=no"]).training.plain()["save_strategy"] == "no"


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_text("training: {max_steps: 1}")
    with pytest.raises(RecipeError) as refused:
        read_stage("sft", str(tmp_path / "recipe.yaml"))
    assert "output_dir: it is missing; state it." in str(refused.value)
    assert "data: it is missing; state it." in str(refused.value)


@pytest.mark.parametrize("content", ["", "- a", "text"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(
        RecipeError, match="recipe.yaml holds a (NoneType|list|str), but a recipe is fields and sections"
    ):
        read_stage("sft", str(tmp_path / "recipe.yaml"))


def test_a_missing_recipe_is_named_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="There is no recipe arm_tiny/pretrian: .* Did you mean arm_tiny/pretrain?"):
        read_stage("pretrain", "arm_tiny/pretrian")
    with pytest.raises(RecipeError, match="no recipe .*missing.yaml: .* The package brings arm_7b/continual, "):
        read_stage("pretrain", str(tmp_path / "missing.yaml"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="recipe.yaml cannot be read: .* A recipe is a YAML file"):
        read_stage("sft", str(tmp_path / "recipe.yaml"))


def test_a_recipe_of_one_s_own_is_read_like_a_shipped_one(tmp_path):
    recipe = read_stage("sft", "arm_tiny/sft")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe.model_dump(exclude_unset=True, mode="json")))
    assert read_recipe(find_stage("sft")[0], str(tmp_path / "mine.yaml")) == recipe


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_help_prints_every_field_with_meaning_and_default(stage, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["train", stage, "--help"])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and printed.startswith("usage: ")
    kind = find_stage(stage)[0]
    for name, field in kind.model_fields.items():
        assert f"\n  {name} (" in printed
        assert field.description is None or field.description in " ".join(printed.split())
    for name in ("output_dir (str, required)", "max_steps (int, default -1)", "arm_tiny/pretrain"):
        assert name in printed


def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "sft", "--config", "arm_tiny/sft", "dtyp=float32"]) == 1
    said = capsys.readouterr().err
    assert said == "transformers-arm: arm_tiny/sft: dtyp: there is no such field; did you mean dtype?\n"
    assert not list(tmp_path.iterdir())


def test_a_launcher_says_the_same(tmp_path, monkeypatch, capsys):
    launcher = Path(__file__).parents[2] / "trainers" / "sft.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(launcher), "--config", "arm_tiny/sft", "dtyp=float32"])
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(launcher), run_name="__main__")
    assert capsys.readouterr().err == "sft.py: arm_tiny/sft: dtyp: there is no such field; did you mean dtype?\n"


def test_two_recipes_for_one_training_are_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "sft", "--config", "a.yaml", "--config", "b.yaml"])
    assert "--config is given twice" in capsys.readouterr().err


def test_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert cli.main(["train", "grpo", "--config", "arm_tiny/grpo_joint"]) == 1
    assert "install it with `pip install transformers-arm[rl]`" in capsys.readouterr().err
