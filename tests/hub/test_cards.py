"""Cards say what folder and result files hold, for every kind; those that ship are what the exporters write."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import export_emoji
import export_tiny
import export_tiny_rl
import pytest
import torch
from huggingface_hub import ModelCard
from jinja2 import UndefinedError
from PIL import Image
from safetensors.torch import load_file, save_file
from shipped import SHIPPED, name_of

from transformers_arm import ArmForCausalLM, cli
from transformers_arm.evaluation.results import write_result
from transformers_arm.hub.card import unbacked_figures
from transformers_arm.hub.card_writing import KINDS, WORLD, figures_below, node_at, write_card
from transformers_arm.hub.remote_code import add_remote_code
from transformers_arm.worlds.shapes.evaluation import READERS
from transformers_arm.worlds.shapes.figure_names import FIGURE_NAMES

ROOT = Path(__file__).parents[2]
WRITERS = {
    "arm-tiny": export_tiny.write_tiny_card,
    "arm-tiny-rl": export_tiny_rl.write_tiny_rl_card,
    "arm-emoji": export_emoji.write_emoji_card,
}
APACHE = {"license": "apache-2.0"}
SCRATCH = {**APACHE, "from_scratch": True}
BASE = "lab/arm-7b"
QUANTITIES = {"pictures": 3, "skipped": 0, "skipped_examples": [{"row": 2}], "psnr": 31.04, "zero_shot": 0.6125}
STAGE = {"stage": "sft", "command": "python sft.py", "seed": 7, "steps": 40, "minutes": 2}


def weightless(folder: str | Path, copy: Path) -> Path:
    """A copy of all but a folder's weights, which cards know nothing about."""
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors", "README.md")))


@pytest.fixture(scope="module")
def adapter_folder(arm_folder, tmp_path_factory):
    from peft import get_peft_model

    from transformers_arm.sizes.adapters import lora_config

    model = ArmForCausalLM.from_pretrained(arm_folder)
    folder = tmp_path_factory.mktemp("adapter") / "arm-7b-lora"
    get_peft_model(model, lora_config(model, r=2)).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(arm_folder, tiny_arm_backbones, adapter_folder, tmp_path):
    """A folder of each kind, without weights."""
    found = {"model": arm_folder, "rl": arm_folder, "tokenizer": tiny_arm_backbones["vq"], "adapter": adapter_folder}
    return {kind: weightless(folder, tmp_path / kind) for kind, folder in found.items()}


@pytest.fixture
def scored(tmp_path):
    """A result file of scores with bounds, and two other files: of a comparison, and of a recipe."""
    write_result(
        tmp_path / "scores.json", seed=3, items=40, scores=QUANTITIES, must={"psnr": 30.5}, aim={"zero_shot": 0.7}
    )
    row = {"before": 0.25, "before_spread": 0.0125, "after": 0.5, "after_spread": None, "gain": 0.25}
    write_result(tmp_path / "compared.json", before="lab/old", seeds=[1, 2], table={"exact edits": row})
    write_result(tmp_path / "training.json", stages=[STAGE], remark="It slept.")
    return tmp_path / "scores.json"


def links_of(card: ModelCard) -> list[str]:
    """Files of the repo that a card leads to."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", card.text)


def options_of(kind: str, scored: Path) -> dict:
    """A card's options that leave nothing out."""
    picture = scored.with_name("samples.png")
    Image.new("RGB", (8, 8)).save(picture)
    return {
        **APACHE,
        "repo": f"lab/{kind}",
        "base_models": [BASE] if kind == "adapter" else ["Qwen/Qwen2.5-7B", "google/siglip2-so400m-patch16-512"],
        "datasets": ["lab/pictures"],
        "results": [scored, scored.with_name("compared.json")],
        "dataset": "lab/held-out",
        "training": scored.with_name("training.json"),
        "pictures": [picture],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_of_each_kind_tells_all_that_it_was_given(kind, folders, scored):
    options = options_of(kind, scored)
    write_card(folders[kind], kind, **options)
    card, today = ModelCard.load(folders[kind] / "README.md"), date.today().isoformat()
    headings = ["How to load it", "What is in it", "Intended use", "Limits", "Data and recipe", "Figures"]
    assert re.findall("^## (.+)$", card.text, re.M) == [*headings, "Licence and provenance", "Citation"]
    for said in (
        *(f"# {kind}\n", f'\nrepo = "lab/{kind}"', f'\nbase = "{BASE}"' if kind == "adapter" else ""),
        *("![samples](pictures/samples.png)", "| sft | `python sft.py` | 7 | 40 | 2 |", "datasets/lab/pictures)"),
        *(f"({today}, ", "40 items, seed 3) wrote [results/scores.json](results/scores.json)", "seed 1, seed 2)"),
        *("| PSNR, dB | 31.040 | 30.5 |  |", "| zero-shot accuracy of z_q | 0.613 |  | 0.7 |"),
        *(f"| | old | {kind} | gain |", "| exact edits | 0.250 +- 0.013 | 0.500 | +0.250 |", "trust_remote_code=True"),
        *("licensed under apache-2.0", "eprint = {2606.11188}", "It slept."),
        *(f"[{base}](https://huggingface.co/{base})" for base in options["base_models"]),
    ):
        assert said in card.text, said
    assert not re.search(r"{{|{%|\bNone\b|\n\n\n", card.text)
    assert len(links_of(card)) == 3 and all((folders[kind] / link).is_file() for link in links_of(card))


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_comes_back_from_the_file_as_it_was_written(kind, folders, scored):
    options = options_of(kind, scored)
    written = write_card(folders[kind], kind, **options).data
    loaded = ModelCard.load(folders[kind] / "README.md").data
    assert loaded.to_dict() == written.to_dict()
    assert (loaded.license, loaded.base_model, loaded.datasets) == (
        "apache-2.0",
        options["base_models"],
        ["lab/pictures"],
    )
    assert (loaded.pipeline_tag, loaded.library_name) == (KINDS[kind]["pipeline_tag"], KINDS[kind]["library_name"])
    relations = {"rl": "finetune", "adapter": "adapter"}
    assert loaded.get("base_model_relation") == relations.get(kind)
    figures = {figure.metric_name: figure for figure in loaded.eval_results}
    assert set(figures) == {"PSNR, dB", "zero-shot accuracy of z_q", "exact edits"}  # no counts, no examples
    assert figures["exact edits"].metric_value == 0.5 and figures["exact edits"].task_type == "image-to-image"
    assert figures["PSNR, dB"].task_type == "image-feature-extraction"
    assert {figure.dataset_name for figure in figures.values()} == {"lab/held-out"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_backed_by_a_file_beside_the_card(kind, folders, scored):
    for figure in write_card(folders[kind], kind, **options_of(kind, scored)).data.eval_results:
        result = json.loads((folders[kind] / figure.metric_args["file"]).read_text())
        assert node_at(result, figure.metric_args["field"]) == figure.metric_value
        assert {key: figure.metric_args[key] for key in ("command", "date")}.items() <= result.items()
    assert unbacked_figures(folders[kind]) == []
    changed = folders[kind] / "results" / "scores.json"
    changed.write_text(changed.read_text().replace("31.04", "32.04"))
    assert any("32.04" in unbacked for unbacked in unbacked_figures(folders[kind]))


@pytest.mark.parametrize("kind", ["model", "rl", "tokenizer"])
def test_a_card_that_was_given_nothing_but_its_licence_says_so_in_whole_sentences(kind, folders):
    write_card(folders[kind], kind, repo=f"lab/{kind}", **SCRATCH)
    card = ModelCard.load(folders[kind] / "README.md")
    for said in ("None is stated.", "No public data set is named.", "No log of its training"):
        assert said in card.text
    assert "Its authors state that it was trained from scratch" in card.text and card.data["trained_from_scratch"]
    assert {"base_model", "datasets", "model-index"}.isdisjoint(card.data.to_dict())


def test_what_tells_more_of_a_score_stands_in_its_row(folders, tmp_path):
    told = {"psnr": 31.5, "psnr_low": 30.5, "psnr_high": 32.5, "psnr_weakest": 20.0, "psnr_weakest_low": 10.25}
    write_result(tmp_path / "scores.json", scores={**told, "ssim": 0.5, "brow_low": 0.75}, must={"psnr": 30})
    options = {"results": [tmp_path / "scores.json"], "dataset": WORLD, **SCRATCH}
    card = write_card(folders["tokenizer"], "tokenizer", repo="lab/tokenizer", **options)
    assert "| | measured | weakest part | must |" in card.text and "| SSIM | 0.500 |  |  |" in card.text
    assert "| PSNR, dB | 31.500 (30.500 to 32.500) | 20.000 (10.250) | 30 |" in card.text
    assert {figure.metric_type for figure in card.data.eval_results} == {"psnr", "ssim", "brow_low"}
    assert unbacked_figures(folders["tokenizer"]) == []


def test_where_nothing_says_what_weights_were_built_from_no_card_claims_it(folders, capsys):
    command = ["card", "model", str(folders["model"]), "--repo", "lab/arm", "--license", "apache-2.0"]
    assert cli.main(command) == 1
    assert "--base-model, or state with --from-scratch that no published" in capsys.readouterr().err
    assert cli.main([*command, "--base-model", "lab/base", "--from-scratch"]) == 1
    assert "built from lab/base was not trained from scratch" in capsys.readouterr().err
    assert not (folders["model"] / "README.md").exists()
    config = json.loads((folders["model"] / "config.json").read_text())
    config |= {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944, "layer_types": None}
    (folders["model"] / "config.json").write_text(json.dumps(config | {"num_attention_heads": 28}))
    assert cli.main(command) == 1
    assert "config.json has the shape of Qwen/Qwen2.5-7B; name the ids" in capsys.readouterr().err
    assert cli.main([*command, "--base-model", "Qwen/Qwen2.5-7B"]) == 0
    text = (folders["model"] / "README.md").read_text()
    assert "It was built from [Qwen/Qwen2.5-7B]" in text and "scratch" not in text


def test_a_field_of_a_result_file_can_be_taken_alone(folders):
    stages = ROOT / "benchmarks" / "results" / "arm_tiny_stages.json"
    write_card(folders["model"], "model", repo="lab/arm", results=[f"{stages}:scores/sft"], dataset=WORLD, **SCRATCH)
    figures = ModelCard.load(folders["model"] / "README.md").data.eval_results
    scores = json.loads(stages.read_text())["scores"]["sft"]
    assert {figure.metric_type: figure.metric_value for figure in figures} == scores
    assert figures[0].metric_args["field"] == f"scores/sft/{figures[0].metric_type}"


def test_a_text_replaces_blocks_of_its_kind_s_template(folders, tmp_path):
    text = tmp_path / "text.md"
    text.write_text('{% extends "model.md" %}{% block limits %}{{ super() }}It cannot read {{ name }}.{% endblock %}')
    card = write_card(folders["model"], "model", repo="lab/arm-7b", text=text, **SCRATCH)
    assert "It cannot read arm-7b." in card.text and "Do not pass its pictures off" in card.text
    text.write_text('{% extends "model.md" %}{% block limits %}{{ nobody_said_this }}{% endblock %}')
    with pytest.raises(UndefinedError, match="nobody_said_this"):
        write_card(folders["model"], "model", repo="lab/arm-7b", text=text, **SCRATCH)


def test_licences_of_bases_and_own_terms_are_stated(folders):
    terms = {"license": "other", "license_name": "lab-terms", "license_link": "https://example.com/terms"}
    bases = ["black-forest-labs/FLUX.1-dev", "lab/unknown"]
    card = write_card(folders["model"], "model", repo="lab/arm", base_models=bases, **terms)
    assert "licensed under [lab-terms](https://example.com/terms)" in card.text
    assert "FLUX.1-dev) (flux-1-dev-non-commercial-license), [lab/unknown](https" in card.text
    assert terms.items() <= card.data.to_dict().items()
    with pytest.raises(ValueError, match="needs its name and a link"):
        write_card(folders["model"], "model", repo="lab/arm", license="other", license_name="lab-terms")


def test_files_that_would_mislead_are_refused(folders, scored, tmp_path):
    def refused(message, kind="model", **options):
        with pytest.raises(ValueError, match=message):
            write_card(folders[kind], kind, repo="lab/arm", **SCRATCH, **options)
        assert not (folders[kind] / "README.md").exists()

    (tmp_path / "bare.json").write_text('{"scores": {"psnr": 3.5}}')
    refused("bare.json lacks command, date, hardware", results=[tmp_path / "bare.json"])
    refused("does not say which data set", results=[scored])
    refused("leads nowhere: there is no 'sft'", results=[f"{scored}:scores/sft"], dataset=WORLD)
    write_result(tmp_path / "empty.json", scores={"pictures": 3})
    refused("no figures at 'scores'", results=[tmp_path / "empty.json"], dataset=WORLD)
    shutil.copyfile(scored, tmp_path / "model" / "scores.json")
    refused("two have one name", results=[scored, tmp_path / "model" / "scores.json"], dataset=WORLD)
    refused("two have one name", results=[scored], dataset=WORLD, training=tmp_path / "model" / "scores.json")
    refused("base model is .* but none on the card", kind="adapter")
    with pytest.raises(ValueError, match="'a/b' holds a '/'"):
        list(figures_below({"a/b": 1.5}, "scores"))


def test_a_folder_of_another_kind_is_refused(folders):
    with pytest.raises(ValueError, match="is of the type 'arm', but that of a tokenizer 'arm_vq'"):
        write_card(folders["model"], "tokenizer", repo="lab/arm", **SCRATCH)
    with pytest.raises(ValueError, match="holds no adapter_config.json"):
        write_card(folders["model"], "adapter", repo="lab/arm", base_models=[BASE], **APACHE)


def test_the_command_line_writes_a_card_and_names_what_is_wrong(folders, scored, capsys):
    command = ["card", "tokenizer", str(folders["tokenizer"]), "--repo", "lab/tokenizer", "--license", "apache-2.0"]
    command += ["--base-model", "google/siglip2-so400m-patch16-512", "--results", str(scored)]
    assert cli.main([*command, "--dataset", "lab/held-out"]) == 0
    assert "google/siglip2-so400m-patch16-512) (apache-2.0)" in (folders["tokenizer"] / "README.md").read_text()
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"transformers-arm: {scored} does not say which data set")


@pytest.mark.parametrize("kept", ["my own words\n", "---\nlicense: mit\n---\nmine\n", "---\nlicense: [\n---\nmine"])
def test_words_of_somebody_s_own_are_replaced_only_when_asked(folders, kept, capsys):
    readme = folders["model"] / "README.md"
    readme.write_text(kept)
    command = ["card", "model", str(folders["model"]), "--repo", "lab/arm", "--license", "mit", "--from-scratch"]
    assert cli.main(command) == 1
    assert f"{readme} is no card that this wrote, and would be lost" in capsys.readouterr().err
    assert readme.read_text() == kept
    assert cli.main([*command, "--overwrite"]) == 0
    assert cli.main(command) == 0  # our own
    readme.write_text("---\ntags: [generated_from_trainer, trl]\n---\nThis model was trained.\n")
    assert cli.main(command) == 0 and "# arm\n" in readme.read_text()


@pytest.mark.parametrize("option", ["--results", "--training", "--pictures"])
@pytest.mark.parametrize("content", ["{broken", None])
def test_what_cannot_be_read_replaces_nothing(folders, scored, tmp_path, capsys, option, content):
    folder, given = folders["model"], tmp_path / "given" / "scores.json"
    write_card(folder, "model", repo="lab/arm", results=[scored], dataset=WORLD, **SCRATCH)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    given.parent.mkdir()
    if content is not None:
        given.write_text(content)
    options = [option, str(given)] if option != "--pictures" else ["--pictures", str(given), "--results", str(given)]
    command = ["card", "model", str(folder), "--repo", "lab/arm", "--license", "mit", "--from-scratch", *options]
    assert cli.main(command) == 1
    assert str(given) in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_world_has_words_for_its_figures(folders, tmp_path):
    write_result(tmp_path / "read.json", scores={"read_back": 0.5})
    command = ["card", "tokenizer", str(folders["tokenizer"]), "--repo", "lab/tokenizer", "--license", "apache-2.0"]
    command += ["--from-scratch", "--results", str(tmp_path / "read.json"), "--world", "shapes"]
    assert cli.main(command) == 0
    written = (folders["tokenizer"] / "README.md").read_text()
    assert f"| {FIGURE_NAMES['read_back']} | 0.500 |" in written and WORLD in written


def code_of(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.S)


def test_a_model_s_card_loads_it_with_the_package_and_without(arm_folder, tmp_path):
    folder = Path(shutil.copytree(arm_folder, tmp_path / "arm-7b"))
    write_card(folder, "model", repo=str(folder), **SCRATCH)
    with_package, without = code_of(folder)
    done = {}
    exec(with_package, done)
    assert done["edited"].size == done["picture"].size and isinstance(done["answer"], str)
    add_remote_code(folder)
    blocked = "import sys\nsys.modules['transformers_arm'] = None\n"
    check = "\nassert edited.size == picture.size and type(ask.model).__name__ == 'ArmForCausalLM'"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    fresh = [sys.executable, "-c", blocked + without + check]
    subprocess.run(fresh, env=environment, check=True, capture_output=True, text=True)


def test_a_tokenizer_s_card_loads_it(tiny_arm_backbones, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_arm_backbones["vq"], tmp_path / "tokenizer"))
    write_card(folder, "tokenizer", repo=str(folder), **SCRATCH)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 48), "red").save("picture.png")
    done = {}
    exec(code_of(folder)[0], done)
    assert done["codes"].shape == done["z_q"].shape[:3] == (1, 3, 3)


def test_an_adapter_s_card_loads_it(arm_folder, adapter_folder, tmp_path):
    folder = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    write_card(folder, "adapter", repo=str(folder), base_models=[arm_folder], **APACHE)
    done = {}
    exec(code_of(folder)[0], done)
    assert done["model"].active_adapters() and done["picture"].size == (48, 48)


@pytest.mark.parametrize("shipped", SHIPPED, ids=name_of)
def test_a_shipped_card_is_what_its_exporter_makes_of_the_shipped_results(shipped, tmp_path):
    folder = weightless(shipped, tmp_path / shipped.name)
    WRITERS[shipped.name](folder)
    assert (folder / "README.md").read_text() == (shipped / "README.md").read_text()
    assert unbacked_figures(shipped) == []
    assert all((shipped / link).is_file() for link in links_of(ModelCard.load(shipped / "README.md")))


def test_every_score_of_arm_tiny_is_on_its_card():
    result = json.loads((ROOT / "checkpoints" / "arm-tiny" / export_tiny.SCORES).read_text())
    text = (ROOT / "checkpoints" / "arm-tiny" / "README.md").read_text()
    metrics = {figure.metric_type: figure.metric_value for figure in ModelCard(text).data.eval_results}
    # Weakest cells stand beside their means, not as scores of their own.
    scores = {name: value for name, value in result["scores"].items() if not name.endswith("_weakest")}
    assert metrics == scores
    for value in (*scores.values(), *result["must"].values(), *result["aim"].values()):
        assert f"| {value:.3f} |" in text or f"| {value:g} |" in text


def test_pictures_of_a_folder_stay_small():
    for folder in SHIPPED:
        pictures = list((folder / "pictures").iterdir())
        assert pictures and sum(file.stat().st_size for file in pictures) < 200_000


def test_export_keeps_what_was_not_trained_anew_and_writes_results_pictures_and_card(arm_folder, tmp_path):
    checkpoint = Path(shutil.copytree(arm_folder, tmp_path / "arm-tiny"))
    shutil.copytree(ROOT / "checkpoints" / "arm-tiny" / "results", checkpoint / "results")
    shutil.copytree(arm_folder, tmp_path / "runs" / "sft" / "model", ignore=shutil.ignore_patterns("backbones"))
    logged = json.loads((checkpoint / export_tiny.TRAINING).read_text())["stages"]
    write_log(tmp_path / "runs" / "sft", steps=3)
    options = {"remark": "It slept.", "repo": "lab/arm-tiny", "readers": READERS}
    export_tiny.export_tiny(tmp_path / "runs", checkpoint, count=2, **options)
    training = json.loads((checkpoint / export_tiny.TRAINING).read_text())
    assert training["stages"] == [*logged[:-1], {**logged[-1], "steps": 3, "minutes": 2}]
    assert load_file(checkpoint / "model.safetensors")["lm_head.weight"].dtype == torch.float16
    assert {file.name for file in (checkpoint / "pictures").iterdir()} == {"prompts.png", "edits.png", "world.png"}
    text = (checkpoint / "README.md").read_text()
    assert 'repo = "lab/arm-tiny"' in text and "It slept." in text and ", 2 items, seed 20261123)" in text
    assert unbacked_figures(checkpoint) == []


def write_log(run: Path, *, steps: int) -> None:
    """What a trainer leaves behind that ran two minutes."""
    (run / f"checkpoint-{steps}").mkdir(parents=True)
    (run / f"checkpoint-{steps}" / "trainer_state.json").write_text(json.dumps({"global_step": steps}))
    events = run / "events.out.tfevents.1000000000.host"
    events.touch()
    os.utime(events, (1_000_000_120, 1_000_000_120))


def test_rl_export_ships_the_last_stage_with_its_comparison(arm_folder, tmp_path):
    run, checkpoint = tmp_path / "runs" / "grpo_joint", tmp_path / "arm-tiny-rl"
    shutil.copytree(arm_folder, run / "model", ignore=shutil.ignore_patterns("backbones", "vq_model"))
    write_log(run, steps=4)
    row = {"before": 0.25, "before_spread": 0.5, "after": 0.75, "after_spread": 0.125, "gain": 0.5}
    compared = {"before": "checkpoints/arm-tiny", "after": [run / "model"], "seeds": [1, 2], "items": 6}
    write_result(tmp_path / "rl.json", **compared, table={"exact edits": row})
    options = {"repo": "lab/arm-tiny-rl", "base_models": ["lab/arm-tiny"]}
    export_tiny_rl.export_tiny_rl({"grpo_joint": run}, tmp_path / "rl.json", checkpoint, **options)
    text = (checkpoint / "README.md").read_text()
    assert "| exact edits | 0.250 +- 0.500 | 0.750 +- 0.125 | +0.500 |" in text
    assert "grpo_joint` | 13 | 4 | 2 |" in text and "It is arm-tiny ([lab/arm-tiny](" in text
    assert (checkpoint / export_tiny_rl.RESULTS).read_text() == (tmp_path / "rl.json").read_text()
    assert ModelCard(text).data.base_model == ["lab/arm-tiny"] and unbacked_figures(checkpoint) == []


def test_rl_export_refuses_results_that_are_not_of_what_ships_alone(tmp_path):
    run = tmp_path / "grpo_joint"
    for after in ([tmp_path / "other"], [tmp_path / "other", run / "model"]):
        write_result(tmp_path / "rl.json", before="arm-tiny", after=after, table={})
        with pytest.raises(ValueError, match="not about .*grpo_joint/model alone; score that one"):
            export_tiny_rl.export_tiny_rl({"grpo_joint": run}, tmp_path / "rl.json", tmp_path / "arm-tiny-rl")
    assert not (tmp_path / "arm-tiny-rl").exists()


def test_export_leaves_the_old_folder_alone_when_a_stage_is_missing(tmp_path):
    old = tmp_path / "arm-tiny"
    old.mkdir()
    (old / "kept").write_text("old")
    (tmp_path / "runs" / export_tiny.STAGES[0].source).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="run trainers/backbones.py first"):
        export_tiny.export_tiny(tmp_path / "runs", old)
    assert [file.name for file in old.iterdir()] == ["kept"]


def test_halving_keeps_integers_and_refuses_what_fp16_cannot_hold(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.tensor([1.5]), "count": torch.tensor([70000])}, file)
    export_tiny.to_half(file)
    assert load_file(file)["weight"].dtype == torch.float16
    assert load_file(file)["count"].item() == 70000
    save_file({"weight": torch.tensor([1e6])}, file)
    with pytest.raises(ValueError, match="weight in model.safetensors holds 1e"):
        export_tiny.to_half(file)
