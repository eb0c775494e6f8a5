"""Cards: their figures need results, and their metadata a licence that all origins allow."""

import json
import re

import pytest
from huggingface_hub import HfApi
from push_folders import TABLE, edit_json, refused, write_card

from transformers_arm.hub.card import (
    base_models,
    check_licence,
    doubt_of_origin,
    known_licence,
    read_card,
    unbacked_figures,
)
from transformers_arm.hub.push import staged

# Cards


def test_figures_that_results_hold_are_backed(folder):
    assert unbacked_figures(folder) == []


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"text": TABLE.replace("0.874", "0.875")}, "0.875"),
        ({"text": TABLE.replace("-0.022", "0.022")}, "0.022"),
        ({"text": TABLE.replace("1,234.5", "1,243.5")}, "1,243.5"),
        ({"text": TABLE.replace("0.012", "0.0124")}, "0.0124"),
        ({"text": "a | b\n---|---\n0.5 | 1\n"}, "0.5"),
        ({"text": TABLE.replace("0.874", "__0.875__")}, "0.875"),
        ({"text": TABLE.replace("0.874", "_.875_")}, ".875"),
        ({"text": "It is right in 0.875 of all cases."}, "0.875: no result file .*as code"),
        ({"text": "It is right in 87.47% of all cases."}, "87.47%: no result file"),
        ({"text": "It is right in 99 % of all cases."}, "99%: no result file"),
        ({"text": "It is right in 0&#46;875 of all cases."}, "0.875: no result file"),
        ({"value": 0.874}, r"accuracy 0.874: results/scores.json says 0.8737 in scores/one"),
        ({"field": "scores/two"}, "results/scores.json has no field scores/two"),
        ({"field": "nothing"}, "results/scores.json says None in nothing"),
        ({"command": "python else.py"}, "results/scores.json has another command"),
    ],
)
def test_figures_without_a_result_are_named(folder, card, message):
    write_card(folder, **card)
    (found,) = unbacked_figures(folder)
    assert re.search(message, found)
    refused(folder, "1 figures in .*README.md are not backed by a result file")


def test_a_metric_of_a_file_that_is_no_result_is_not_backed(folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("file: results/scores.json", "file: config.json"))
    assert unbacked_figures(folder) == ["accuracy 0.8737: there is no result file config.json"]


def test_what_is_no_measurement_is_not_looked_up(folder):
    prose = "apache-2.0, as arXiv 2606.11188 says in section 3.1, with `top_p` of `0.75`"
    write_card(folder, f"| a | `0.5` [x](a/1.5.png) |\n```\n| 0.25 |\n```\n{prose}\n")
    assert unbacked_figures(folder) == []


def test_settings_of_the_folder_stand_in_prose_but_not_among_measurements(folder):
    edit_json(folder / "generation_config.json", image_generation={"temperature": 0.4375})
    write_card(folder, "Drawn at a temperature of 0.4375.\n")
    assert unbacked_figures(folder) == []
    write_card(folder, "| exact | 0.4375 |\n")
    assert len(unbacked_figures(folder)) == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: [", "metadata of .* cannot be read"),
        ("tags: [arm]", "states the licence None; its metadata needs one `license:`"),
        ("license: [mit, apache-2.0]", "states the licence .*needs one"),
        ("license: other", "`license: other`; its metadata needs license_name and license_link"),
        ("license: other\nlicense_name: [a]\nlicense_link: b", "its metadata needs license_name and license_link"),
        ("license: mit\nbase_model: {name: Qwen/Qwen2.5-3B}", "names the base_model .*needs an id on the Hub"),
        ("license: mit\nbase_model: [{name: Qwen/Qwen2.5-3B}]", "names the base_model .*needs an id on the Hub"),
        ("license: mit\nmodel-index:\n- results: 3", "metadata of .* cannot be read"),
    ],
)
def test_a_card_without_valid_metadata_is_refused(folder, metadata, message):
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# A model\n")
    refused(folder, message)


def test_a_folder_without_a_card_is_refused(folder):
    (folder / "README.md").unlink()
    refused(folder, "has no README.md; write its model card")


def test_the_published_card_loads_from_the_repo_whatever_it_was_written_for(folder):
    card = folder / "README.md"
    card.write_text(card.read_text() + '\n```python\nrepo = "checkpoints/arm"  # here\nload(repo)\n```\n')
    written = card.read_text()
    with staged(folder, "org/arm", trial=False) as copies:
        assert (copies / "README.md").read_text() == written.replace('"checkpoints/arm"', '"org/arm"')
    assert card.read_text() == written


# Licences

FLUX = {"license": "other", "license_name": "flux-1-dev-non-commercial-license", "license_link": "LICENSE.md"}


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("Qwen/Qwen2.5-7B", "apache-2.0"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "apache-2.0"),
        ("Qwen/Qwen2.5-3B", "qwen-research"),
        ("Qwen/Qwen2.5-Coder-3B", "qwen-research"),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen"),
        ("google/siglip2-so400m-patch16-512", "apache-2.0"),
        ("black-forest-labs/FLUX.1-dev", "flux-1-dev-non-commercial-license"),
        ("black-forest-labs/FLUX.1-schnell", "apache-2.0"),
        ("black-forest-labs/FLUX.2-klein-base-4B", "apache-2.0"),
        ("black-forest-labs/FLUX.2-klein-9B", "flux-non-commercial-license"),
        ("black-forest-labs/FLUX.2-dev", "flux-dev-non-commercial-license"),
        ("Efficient-Large-Model/Sana_600M_512px_diffusers", "nscl-v2-custom"),
    ],
)
def test_licences_of_what_arm_is_built_from_are_known(base, licence):
    assert licence in known_licence(base)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (
            {"base_model": "black-forest-labs/FLUX.1-dev"},
            "apache-2.0, but .*FLUX.1-dev .README.md shows it",
        ),
        ({"base_model": ["Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-3B"]}, "built from Qwen/Qwen2.5-3B .*under qwen-research"),
        ({"base_model": "Qwen/Qwen2.5-72B", **FLUX}, "built from Qwen/Qwen2.5-72B .*under qwen;"),
        ({"base_model": "Efficient-Large-Model/Sana_1600M_1024px"}, "nscl-v2-custom or nvidia-open-model-license"),
    ],
)
def test_a_licence_that_an_origin_does_not_allow_is_refused(folder, card, message):
    write_card(folder, **card)
    refused(folder, message)


@pytest.mark.parametrize(
    "card",
    [
        {"base_model": ["Qwen/Qwen2.5-7B", "google/siglip2-so400m-patch16-512"]},
        {"base_model": "Qwen/Qwen2.5-7B", "license": "mit"},
        {"base_model": ["Qwen/Qwen2.5-7B", "black-forest-labs/FLUX.1-dev"], **FLUX},
        {
            "base_model": ["Qwen/Qwen2.5-3B", "black-forest-labs/FLUX.1-dev"],
            **FLUX,
            "license_name": "flux-1-dev-non-commercial-license, qwen-research",
        },
    ],
)
def test_a_licence_that_all_origins_allow_is_taken(folder, card):
    write_card(folder, **card)
    with staged(folder, "org/arm", trial=False):
        pass


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ({"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}, "black-forest-labs/FLUX.1-dev"),
        ({"_class_name": "SanaTransformer2DModel", "num_layers": 20}, "Efficient-Large-Model/Sana_1600M_1024px"),
        ({"_class_name": "Flux2Transformer2DModel", "joint_attention_dim": 15_360}, "black-forest-labs/FLUX.2-dev"),
        (
            {"_class_name": "Flux2Transformer2DModel", "joint_attention_dim": 12_288, "guidance_embeds": True},
            "black-forest-labs/FLUX.2-klein-base-9B",
        ),
    ],
)
def test_what_a_detokenizer_shows_of_its_origin_counts(folder, config, base):
    transformer = folder / "detokenizer" / "prior"
    transformer.mkdir()
    (transformer / "config.json").write_text(json.dumps(config))
    refused(folder, f"built from {base} .detokenizer/prior/config.json shows it")


def test_a_klein_of_4b_asks_for_no_licence_but_apache(folder):
    transformer = folder / "detokenizer" / "prior"
    transformer.mkdir()
    config = {"_class_name": "Flux2Transformer2DModel", "joint_attention_dim": 7680, "guidance_embeds": False}
    (transformer / "config.json").write_text(json.dumps(config))
    write_card(folder, license="apache-2.0", base_model="black-forest-labs/FLUX.2-klein-base-4B")
    with staged(folder, "org/arm", trial=False):
        pass


SHAPE_OF_3B = {"hidden_size": 2048, "num_hidden_layers": 36, "intermediate_size": 11_008}
SHAPE_OF_SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304}
RESEARCH = {"license": "other", "license_name": "qwen-research", "license_link": "LICENSE.md"}


@pytest.mark.parametrize(
    ("config", "card", "message"),
    [
        (
            SHAPE_OF_3B,
            {"trained_from_scratch": None},
            "no base_model, and config.json has the shape of Qwen/Qwen2.5-3B",
        ),
        (
            {"vq_config": {"vision_config": SHAPE_OF_SO400M}},
            {"trained_from_scratch": None},
            "shape of google/siglip2-so4",
        ),
        (
            SHAPE_OF_3B,
            {"base_model": "Qwen/Qwen2.5-7B"},
            "built from Qwen/Qwen2.5-3B .config.json shows it.* qwen-resea",
        ),
        (
            SHAPE_OF_3B,
            {"base_model": "Qwen/Qwen2.5-3B"},
            "built from Qwen/Qwen2.5-3B .README.md shows it.* qwen-resea",
        ),
        (
            {},
            {"base_model": "Qwen/Qwen2.5-7B", "trained_from_scratch": True},
            "Qwen2.5-7B and states trained_from_scr",
        ),
        ({}, {"trained_from_scratch": "yes"}, "states trained_from_scratch: 'yes'; write true"),
    ],
)
def test_an_origin_that_sizes_show_and_the_card_does_not_is_refused(folder, config, card, message):
    write_card(folder, **card)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        check_licence(read_card(folder), {"config.json": folder / "config.json"}, HfApi())


def test_an_origin_that_the_card_names_or_denies_is_believed_and_people_are_told(owner, folder, tmp_path):
    files = {"config.json": folder / "config.json"}
    files["config.json"].write_text(json.dumps({"captioner_config": SHAPE_OF_3B}))
    write_card(folder)
    check_licence(read_card(folder), files, HfApi())
    doubt = "README.md states trained_from_scratch, but config.json has the shape of Qwen/Qwen2.5-3B."
    assert doubt_of_origin(read_card(folder), files) == doubt
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\nbase_model: Qwen/Qwen2.5-Coder-3B\n---\n")
    owner.add_repo("other/base", tmp_path / "base")
    for base in ("Qwen/Qwen2.5-3B-Instruct", "other/base"):
        write_card(folder, base_model=base, **RESEARCH)
        check_licence(read_card(folder), files, HfApi())
        assert doubt_of_origin(read_card(folder), files) is None
    write_card(folder, trained_from_scratch=None)
    assert "nothing says what this was built from" in doubt_of_origin(read_card(folder), {})


def test_the_hub_is_asked_for_the_licence_of_other_bases(owner, folder, tmp_path):
    for name, licence in (("closed", "cc-by-nc-4.0"), ("open", "mit"), ("silent", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n" if licence else "# Nothing\n")
        owner.add_repo(f"other/{name}", tmp_path / name)
    write_card(folder, base_model="other/closed")
    refused(folder, "built from other/closed .*under cc-by-nc-4.0")
    write_card(folder, base_model="other/silent")
    refused(folder, "other/silent, a base_model in README.md, states no licence")
    write_card(folder, base_model="other/none")
    refused(folder, "The licence of other/none, a base_model in README.md, cannot be found")
    write_card(folder, base_model="../other/open")
    refused(folder, "The licence of ../other/open")
    for card in ({"base_model": "other/open"}, {"base_model": "other/closed", "license": "cc-by-nc-4.0"}):
        write_card(folder, **card)
        with staged(folder, "org/arm", trial=False):
            pass
    assert base_models(read_card(folder).data) == ["other/closed"]


def test_what_a_base_on_the_hub_was_built_from_counts_too(owner, folder, tmp_path):
    (tmp_path / "base").mkdir()
    names = "base_model: [black-forest-labs/FLUX.1-dev, gone/model]"
    (tmp_path / "base" / "README.md").write_text(f"---\nlicense: apache-2.0\n{names}\n---\n")
    owner.add_repo("other/base", tmp_path / "base")
    write_card(folder, base_model="other/base")
    refused(folder, "built from black-forest-labs/FLUX.1-dev .the card of other/base shows it")
    write_card(folder, base_model="other/base", **FLUX)
    with staged(folder, "org/arm", trial=False):
        pass


def test_a_base_under_several_licences_allows_what_holds_them_all(owner, folder, tmp_path):
    both = "flux-1-dev-non-commercial-license, qwen-research"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text(f"---\nlicense: other\nlicense_name: {both}\n---\n")
    owner.add_repo("other/base", tmp_path / "base")
    write_card(folder, base_model="other/base", **FLUX)
    refused(folder, "built from other/base")
    write_card(folder, base_model="other/base", **{**FLUX, "license_name": both})
    with staged(folder, "org/arm", trial=False):
        pass
