"""A tokenizer's scores on pictures from anywhere are what they say, whatever the batch; bad pictures are named."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from tiny_arm import runs_of
from transformers import AutoTokenizer, SiglipModel

from transformers_arm.data.collators import ImageTextCollator, siglip_input_ids, to_pixel_values
from transformers_arm.data.input_files import find_sources
from transformers_arm.evaluation.tokenizer import (
    RENAME,
    Fidelity,
    Picture,
    Tokenizer,
    ZeroShot,
    class_names,
    dataset_pictures,
    tokenizer_scores,
)
from transformers_arm.metrics.arm_codebook.arm_codebook import codebook_scores
from transformers_arm.metrics.arm_fid.arm_fid import fid
from transformers_arm.metrics.arm_fidelity.arm_fidelity import fidelity_scores
from transformers_arm.worlds.shapes.draw import draw_scene
from transformers_arm.worlds.shapes.evaluation import world_pictures
from transformers_arm.worlds.shapes.scene import Scene, SceneObject

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "arm-tiny"
SIGLIP = CHECKPOINT / "backbones" / "siglip"
CLASSES = ["circle, disk", "square"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_parts(CHECKPOINT / "vq_model", CHECKPOINT / "detokenizer", keep_aspect_ratio=True)


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    """The tokenizer without a detokenizer, which takes most of the time."""
    return Tokenizer.from_parts(CHECKPOINT)


def drawn(shape: str, color: str, width: int = 48) -> Pillow.Image:
    return draw_scene(Scene((SceneObject(shape, color, "large", "left"),), "white")).resize((width, 48))


def png(picture: Pillow.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of several sizes in folders of their classes, of which two cannot be read."""
    for shape in ("circle", "square"):
        (tmp_path / "pictures" / shape).mkdir(parents=True)
        for color, width in (("red", 48), ("green", 32), ("blue", 48)):
            drawn(shape, color, width).save(tmp_path / "pictures" / shape / f"{color}.png")
    whole = (tmp_path / "pictures" / "circle" / "red.png").read_bytes()
    (tmp_path / "pictures" / "circle" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures" / "square" / "notes.png").write_text("no picture")
    return tmp_path / "pictures"


def pictures_in(folder) -> list[Picture]:
    return list(dataset_pictures(find_sources(str(folder), None, "train")))


# Tokenizers


def test_a_tokenizer_comes_from_its_folder_or_from_one_around_it(encoder):
    pixel_values = to_pixel_values([picture.image for picture in world_pictures(4)])
    alone = Tokenizer.from_parts(CHECKPOINT / "vq_model")
    assert alone.detokenizer is None
    assert torch.equal(alone.model.encode(pixel_values).codes, encoder.model.encode(pixel_values).codes)


def test_a_size_off_the_patch_grid_is_refused():
    with pytest.raises(ValueError, match="size is 50x48 pixels .* multiples of 16"):
        Tokenizer.from_parts(CHECKPOINT, size={"height": 50, "width": 48})


# Pictures


def test_a_folder_s_classes_are_its_labels(folder):
    (source,) = find_sources(str(folder), None, "train")
    assert class_names(source) == ["circle", "square"]
    labels = {Path(picture.image["path"]).parent.name: picture.label for picture in pictures_in(folder)}
    assert labels == {"circle": 0, "square": 1}


def test_parquet_and_tars_give_the_same_pictures_captions_and_labels(tmp_path):
    rows = [("circle", "a red circle", 0), ("square", "a green square", 1)]
    files = [png(drawn(shape, caption.split()[1])) for shape, caption, _ in rows]
    features = Features({"jpg": Image(), "prompt": Value("string"), "kind": ClassLabel(names=["round", "angular"])})
    columns = {"jpg": [{"bytes": file, "path": None} for file in files], "prompt": [row[1] for row in rows]}
    Dataset.from_dict(columns | {"kind": [row[2] for row in rows]}, features).to_parquet(tmp_path / "rows.parquet")
    with tarfile.open(tmp_path / "rows.tar", "w") as tar:
        for number, (file, (_, caption, label)) in enumerate(zip(files, rows, strict=True)):
            for kind, content in (("png", file), ("txt", caption.encode()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    rename = {"kind": "label"} | RENAME
    (parquet,), (tar,) = (find_sources(str(tmp_path / name), None, "train") for name in ("rows.parquet", "rows.tar"))
    assert class_names(parquet, rename) == ["round", "angular"]
    assert class_names(parquet) is None and class_names(tar, rename) is None
    for source in (parquet, tar):
        read = [(p.image["bytes"], p.caption, p.label) for p in dataset_pictures([source], rename)]
        assert read == [(file, *row[1:]) for file, row in zip(files, rows, strict=True)]


def test_a_tar_that_is_cut_off_is_measured_as_far_as_it_goes(encoder, tmp_path):
    with tarfile.open(tmp_path / "rows.tar", "w") as tar:
        for number in range(3):
            content = png(drawn("circle", "red"))
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "rows.tar").write_bytes((tmp_path / "rows.tar").read_bytes()[:2600])  # of 1024 bytes a row
    scores = tokenizer_scores(encoder, dataset_pictures(find_sources(str(tmp_path / "rows.tar"), None, "train")))
    assert scores["pictures"] >= 1
    assert scores["skipped_reasons"] == {"file ends early": 1}
    assert f"the file ends early, after {scores['pictures']} rows" in scores["skipped_examples"][0]["problem"]


def test_pictures_that_cannot_be_read_are_counted_and_named_and_change_no_score(tokenizer, folder):
    pictures = pictures_in(folder)
    scores = tokenizer_scores(tokenizer, pictures, batch_size=4)
    assert (scores["pictures"], scores["skipped"]) == (6, 2)
    assert scores["skipped_reasons"] == {"image: unreadable picture": 2}
    problems = " ".join(example["problem"] for example in scores["skipped_examples"])
    assert "cut.png" in problems and "notes.png" in problems
    good = [picture for picture in pictures if Path(picture.image["path"]).stem not in ("cut", "notes")]
    assert tokenizer_scores(tokenizer, good, batch_size=4)["psnr"] == pytest.approx(scores["psnr"])


def test_labels_and_captions_that_are_none_cost_their_row(tmp_path):
    columns = {"image": [{"bytes": png(drawn("circle", "red")), "path": None}] * 3, "label": ["0", "one", "1"]}
    Dataset.from_dict(columns | {"caption": ["a", "b", " "]}).to_parquet(tmp_path / "rows.parquet")
    pictures = pictures_in(tmp_path / "rows.parquet")
    assert pictures[0].label == 0
    assert "'one' is no whole number" in str(pictures[1].image)
    assert "column 'caption': ' ' is blank" in str(pictures[2].image)


def test_rows_of_files_name_local_pictures_only_where_the_caller_trusts_them(encoder, tmp_path):
    drawn("circle", "red").save(tmp_path / "a.png")
    Dataset.from_list([{"image": str(tmp_path / "a.png")}]).to_parquet(tmp_path / "rows.parquet")
    sources = find_sources(str(tmp_path / "rows.parquet"), None, "train")
    with pytest.raises(ValueError, match="None of 1 pictures can be read.*Row 0, column 'image': .*local_files=True"):
        tokenizer_scores(encoder, dataset_pictures(sources))
    assert tokenizer_scores(encoder, dataset_pictures(sources, local_files=True))["pictures"] == 1


def test_a_dataset_without_pictures_is_refused_naming_its_columns(encoder, tmp_path):
    Dataset.from_dict({"photo": ["a"] * 150, "caption": ["b"] * 150}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"None of 100 .*has photo, caption, and no picture.*--rename photo=image"):
        tokenizer_scores(encoder, pictures_in(tmp_path / "rows.parquet"))
    with pytest.raises(ValueError, match="There are no pictures"):
        tokenizer_scores(encoder, [])


# Scores


def test_scores_do_not_depend_on_the_batch(tokenizer, folder, inception_file):
    settings = {"inception": inception_file, "siglip": SIGLIP, "class_names": CLASSES}
    one, all_ = (tokenizer_scores(tokenizer, pictures_in(folder), batch_size=n, **settings) for n in (1, 8))
    assert one.pop("skipped_examples") == all_.pop("skipped_examples")
    assert one.pop("skipped_reasons") == all_.pop("skipped_reasons")
    assert one == pytest.approx(all_, rel=1e-3)


def test_scores_are_those_of_the_pictures_shown(tokenizer, folder, inception_file):
    originals, returned = [], []

    def keep(*pair):
        for kept, new in zip((originals, returned), pair, strict=True):
            kept.extend(new)

    scores = tokenizer_scores(tokenizer, pictures_in(folder), inception=inception_file, on_batch=keep)
    assert {picture.size for picture in originals} == {(48, 48), (32, 48)}
    due = fidelity_scores(returned, originals) | {"rfid": fid(returned, originals, inception_file)["fid"]}
    assert {name: scores[name] for name in due} == pytest.approx(due)
    assert scores["psnr"] > 25  # of scenes from the world that the tokenizer was trained on


def test_nothing_behind_the_quantizer_runs_where_nothing_is_measured_of_it(tokenizer):
    alone = Tokenizer(tokenizer.model, tokenizer.image_processor, None)
    behind = runs_of(tokenizer.model.up_blocks)
    tokenizer_scores(alone, world_pictures(3))
    assert behind == []
    tokenizer_scores(alone, world_pictures(3), siglip=SIGLIP)
    assert behind == [3]
    tokenizer.reconstruct([picture.image for picture in world_pictures(2)])  # once, of codes
    assert behind == [3, 2]


def test_tokens_bits_and_codebook_use_by_hand(encoder):
    pictures = list(world_pictures(10))
    scores = tokenizer_scores(encoder, pictures, batch_size=4)
    codes = encoder.model.encode(to_pixel_values([picture.image for picture in pictures])).codes.numpy()
    assert (scores["tokens_per_picture"], scores["codebook_size"]) == (9, 1024)
    assert scores["bits_per_pixel"] == 9 * 10 / 48**2
    due = codebook_scores(codes, 1024)
    assert {name: scores[name] for name in due} == pytest.approx(due)
    assert not {"psnr", "ssim", "rfid", "zero_shot"} & set(scores)


def test_count_stops_reading(encoder):
    pictures = world_pictures(10)
    assert tokenizer_scores(encoder, pictures, count=4, batch_size=3)["pictures"] == 4
    assert len(list(pictures)) == 6


def test_fidelity_scores_any_codec():
    pictures, fidelity = [drawn("circle", "red"), drawn("square", "blue")], Fidelity()
    returned = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=20)
        returned.append(Pillow.open(file).convert("RGB"))
        fidelity.add([picture], returned[-1:])
    assert fidelity.scores() == pytest.approx(fidelity_scores(returned, pictures))


# Zero-shot


def test_the_frozen_features_find_the_classes_that_siglip_itself_finds(encoder):
    names = ["red circle", "blue square", "green triangle", "yellow cross"]
    images = [np.asarray(drawn(name.split()[1], name.split()[0])) for name in names]
    pictures = [Picture(image, label=(label + wrong) % 4) for wrong in (0, 1) for label, image in enumerate(images)]
    scores = tokenizer_scores(encoder, pictures, siglip=SIGLIP, class_names=[f"{name}, thing" for name in names])
    siglip = SiglipModel.from_pretrained(SIGLIP, dtype=torch.float32)
    text_tokenizer = AutoTokenizer.from_pretrained(SIGLIP)
    longest = siglip.config.text_config.max_position_embeddings
    logits = siglip(
        input_ids=siglip_input_ids(text_tokenizer, [f"a photo of a {name}." for name in names], longest),
        pixel_values=to_pixel_values([picture.image for picture in pictures]),
    ).logits_per_image
    hits = logits.argmax(-1) == torch.tensor([picture.label for picture in pictures])
    assert scores["siglip_zero_shot"] == hits.float().mean() == 0.5  # it knows them, and half of the labels are wrong
    assert (scores["zero_shot_pictures"], scores["zero_shot_candidates"]) == (8, 4)


def test_captions_are_read_in_scoring_as_they_are_in_training():
    """The embeddings of the ids that the tokenizer's training makes of the same captions, however they are written."""
    captions, zero_shot = ["A Red CIRCLE", "two Blue squares"], ZeroShot(SIGLIP)
    longest = zero_shot.siglip.config.text_config.max_position_embeddings
    samples = [{"image": np.zeros((16, 16, 3), np.uint8), "caption": caption} for caption in captions]
    input_ids = ImageTextCollator(AutoTokenizer.from_pretrained(SIGLIP), longest)(samples)["input_ids"]
    trained = zero_shot.siglip.get_text_features(input_ids=input_ids).pooler_output
    trained = torch.nn.functional.normalize(trained, dim=-1)
    assert torch.allclose(zero_shot.text_embeddings(captions), trained, atol=1e-6)
    assert torch.equal(zero_shot.text_embeddings(captions), zero_shot.text_embeddings(list(map(str.lower, captions))))


def test_captions_around_a_picture_are_its_choice_even_in_the_last_short_window(encoder, monkeypatch):
    monkeypatch.setattr("transformers_arm.evaluation.tokenizer.WINDOW", 20)
    scores = tokenizer_scores(encoder, world_pictures(50), siglip=SIGLIP, candidates=10, batch_size=8)
    assert (scores["zero_shot_pictures"], scores["zero_shot_candidates"]) == (50, 10)
    assert scores["zero_shot"] > 0.8


def test_few_captions_are_said_to_be_few(encoder):
    captions = ["a red circle", "a red circle", "a red circle", "a blue square", None]
    images = [picture.image for picture in world_pictures(5)]
    pictures = [Picture(image, caption) for image, caption in zip(images, captions, strict=True)]
    scores = tokenizer_scores(encoder, pictures, siglip=SIGLIP)
    assert (scores["pictures"], scores["zero_shot_pictures"], scores["zero_shot_candidates"]) == (5, 4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"siglip": SIGLIP, "candidates": 1}, "candidates 1 is no choice; take at least 2"),
        ({"siglip": SIGLIP, "class_names": CLASSES}, "No picture of the first batch has a label; .*theirs=label"),
        ({"inception": "network.pt"}, "rFID is of reconstructions; give a detokenizer"),
    ],
)
def test_what_cannot_be_measured_is_refused(encoder, settings, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_scores(encoder, world_pictures(3), **settings)


def test_labels_without_a_name_and_another_siglip_are_refused(encoder, tiny_backbones):
    pictures = [picture._replace(label=2) for picture in world_pictures(3)]
    with pytest.raises(ValueError, match="Label 2 is outside the 2 class names"):
        tokenizer_scores(encoder, pictures, siglip=SIGLIP, class_names=CLASSES)
    with pytest.raises(ValueError, match="is 128 wide and this SigLIP 32; take the SigLIP it was made from"):
        tokenizer_scores(encoder, pictures, siglip=tiny_backbones["vision"])
