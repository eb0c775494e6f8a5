"""Rows to reinforce on are read before training: whatever they raise names them; of pictures the heads are enough."""

import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from picture_rows import ONE, drawing, pictures_in_folder_and_archive, png

from transformers_arm import ArmImageProcessor
from transformers_arm.data.pictures import fetcher_for
from transformers_arm.data.row_errors import RowError
from transformers_arm.training.requests import check_requests, read_grid, read_request

PROCESSOR = ArmImageProcessor(size={"height": 48, "width": 48})


def edits(*pictures):
    features = Features({"prompt": Value("string"), "source_image": Image()})
    rows = [{"prompt": "redder", "source_image": picture} for picture in pictures]
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("side", ["48", float("inf"), float("nan"), [48], 40, 0])
def test_a_side_that_is_none_is_the_row_s_error(side):
    with pytest.raises(
        RowError, match="^Row 3, column 'height': .* must be 16..2048 px, a multiple of the 16 px patch"
    ):
        read_grid({"prompt": "a", "height": side}, 3, PROCESSOR)
    assert read_grid({"prompt": "a", "height": 32.0}, 3, PROCESSOR) == (2, 3)


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"prompt": "a \ud83d cat"}, "Row 3, column 'prompt': .* half a character"),
        ({"prompt": "redder", "source_images": 7}, "Row 3, column 'source_images': 7 is a int, but must be a list"),
        ({"prompt": "redder", "source_image": "http://[::1/a.png"}, "Row 3, column 'source_image': "),
        ({"prompt": "redder", "source_image": {"bytes": 7}}, "Row 3, column 'source_image': "),
    ],
)
def test_whatever_a_request_raises_is_the_row_s_error(row, error):
    with pytest.raises(RowError, match=error) as caught:
        read_request(row, 3, lambda picture: picture)
    assert caught.value.row == 3


def test_pictures_of_archives_are_sources(tmp_path):
    _, archive = pictures_in_folder_and_archive(tmp_path)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    dataset = load_dataset("imagefolder", data_files=str(archive), **options).rename_column("image", "source_image")
    check_requests(dataset, "train_dataset", PROCESSOR)


def test_rows_of_files_name_local_sources_only_where_the_caller_trusts_them(tmp_path):
    drawing(seed=0).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text(f"prompt,source_image\nredder,{tmp_path / 'a.png'}\n")
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    dataset = load_dataset("csv", data_files=str(tmp_path / "rows.csv"), **options)
    check_requests(dataset, "rows", PROCESSOR, local_files=True)
    assert len(read_request(dataset[0], 0, lambda picture: picture, fetcher_for(dataset, True))[1]) == 1
    with pytest.raises(RowError, match="rows: Row 0, column 'source_image': .* Pass local_files=True"):
        check_requests(dataset, "rows", PROCESSOR)
    with pytest.raises(RowError, match="Row 0, column 'source_image': .* Pass local_files=True"):
        read_request(dataset[0], 0, lambda picture: picture, fetcher_for(dataset))


def test_of_pictures_the_heads_are_read_and_addresses_are_not_asked(tmp_path):
    whole, cut, nothing = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    whole.write_bytes(png(ONE))
    cut.write_bytes(png(ONE)[:-3000])
    nothing.write_bytes(b"no picture")
    check_requests(edits(str(whole), str(cut), "http://127.0.0.1:9/a.png"), "rows", PROCESSOR)
    with pytest.raises(
        RowError, match="^rows: Row 1, column 'source_image': cannot identify image file .*c.png'"
    ) as caught:
        check_requests(edits(str(whole), str(nothing)), "rows", PROCESSOR)
    assert (caught.value.row, caught.value.reason) == (1, "source_image: unreadable picture")
