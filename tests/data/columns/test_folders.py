"""Folders of pictures with metadata: every column of them, and every bad row by its file."""

import pytest
from picture_rows import ONE, drawing, folder_dataset, png, said

from transformers_arm.data.columns import check_dataset, row_conversation, source_pictures, undecoded


def test_a_folder_with_metadata_is_a_dataset_of_pictures_to_draw(tmp_path):
    dataset = folder_dataset(tmp_path / "folder", "file_name,prompt\na.png,a cat\nb.png,a dog\n")
    assert check_dataset(dataset) == {"text_to_image": 2}
    assert said(row_conversation(undecoded(dataset)[1], 1)) == [("user", "a dog"), ("assistant", drawing(seed=1))]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("names", ["source_image_file_name,image_file_name", "file_name,source_image_file_name"])
def test_a_folder_s_edits_name_both_files(tmp_path, names, streaming):
    files = {"source_image_file_name": "before/a.png", "image_file_name": "a.png", "file_name": "a.png"}
    metadata = f"{names},prompt\n{','.join(files[name] for name in names.split(','))},redder\n"
    dataset = folder_dataset(tmp_path / "folder", metadata, streaming=streaming)
    assert check_dataset(dataset) == {"editing": 1}
    messages = row_conversation(next(iter(undecoded(dataset))), 0)
    assert said(messages) == [("user", "redder", drawing(seed=2)), ("assistant", drawing(seed=0))]


def test_a_folder_s_edits_of_several_pictures_are_lists_in_jsonl(tmp_path):
    row = {"source_images_file_names": ["before/a.png", "before/b.png"], "image_file_name": "a.png", "prompt": "join"}
    dataset = folder_dataset(tmp_path / "folder", [row])
    assert check_dataset(dataset) == {"editing": 1}
    assert len(source_pictures(undecoded(dataset)[0], 0)) == 2


def test_datasets_hands_a_file_name_behind_the_source_s_to_the_source_and_that_is_noticed(tmp_path):
    metadata = "source_image_file_name,file_name,prompt\nbefore/a.png,a.png,redder\n"
    with pytest.raises(ValueError, match="Row 0, column 'image': there is no picture"):
        check_dataset(folder_dataset(tmp_path / "folder", metadata))


@pytest.mark.parametrize("streaming", [False, True])
def test_every_bad_row_of_a_folder_is_named_with_its_file(tmp_path, streaming):
    folder = tmp_path / "folder"
    metadata = "file_name,prompt\na.png,a cat\nb.png,a dog\nmissing.png,a cow\nbefore/a.png,\nbefore/b.png,a hen\n"
    dataset = folder_dataset(folder, metadata, streaming=streaming)
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "before/b.png").write_bytes(png(ONE)[:-3000])
    with pytest.raises(ValueError) as caught:
        check_dataset(dataset)
    first, *lines = str(caught.value).splitlines()
    assert first == "4 of 5 rows cannot be used:"
    starts = [
        "Row 1, column 'image': ",
        "Row 2, column 'image': ",
        "Row 3, column 'prompt': ",
        "Row 4, column 'image': ",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4
    assert "cannot identify image file: " in lines[0] and "b.png' is none of JPEG, PNG" in lines[0]
    assert "missing.png' is no image file: there is none" in lines[1]
    assert "missing (the row has image)" in lines[2]
    assert "before/b.png' is damaged: image file is truncated" in lines[3]
