"""All rows of a dataset are read as training would, and those that cannot be used are counted and named."""

import pytest
from datasets import Dataset
from picture_rows import GRID, ONE, ROWS, drawing

from transformers_arm import ArmImageProcessor
from transformers_arm.data.columns import check_dataset


def test_datasets_of_codes_and_of_both_kinds_are_checked():
    rows = [{"prompt": "a cat", "image": GRID}] * 3
    assert check_dataset(Dataset.from_list(rows), ArmImageProcessor()) == {"text_to_image": 3}
    mixed = [{"prompt": "redder", "source_image": ONE, "image": GRID}]
    assert check_dataset(Dataset.from_list(mixed), ArmImageProcessor()) == {"editing": 1}
    missing = Dataset.from_list([*rows, {"prompt": "a dog", "image": None}])
    with pytest.raises(ValueError, match="1 of 4 rows.*\nRow 3, column 'image': there is no picture"):
        check_dataset(missing)


def test_the_image_processor_s_bounds_are_the_row_s(tmp_path):
    dataset = Dataset.from_list([{"prompt": "x", "image": drawing(48, side)} for side in (48, 48 * 200)])
    assert check_dataset(dataset, ArmImageProcessor(size={"height": 48, "width": 48}))["text_to_image"] == 2
    keeping = ArmImageProcessor(size={"height": 48, "width": 48}, keep_aspect_ratio=True)
    with pytest.raises(ValueError, match="1 of 2 rows.*\nRow 1, column 'image': 48x9600 pixels .* cannot keep their"):
        check_dataset(dataset, keeping)
    small = Dataset.from_list([{"prompt": "x", "image": drawing(8, 8)}])
    with pytest.raises(ValueError, match="Row 0, column 'image': the image is 8x8 pixels .* multiples of 16"):
        check_dataset(small, ArmImageProcessor(do_resize=False))


def test_more_than_ten_bad_rows_are_counted():
    with pytest.raises(ValueError, match="12 of 12 rows .*\nRow 0.*\n(?s:.*)Row 9.*\n... and 2 more$"):
        check_dataset(Dataset.from_list([{"prompt": "", "answer": "x"}] * 12))


def test_a_dataset_without_rows_or_with_a_transform_is_refused():
    empty = Dataset.from_dict({"prompt": [], "answer": []})
    with pytest.raises(ValueError, match="The dataset has no rows"):
        check_dataset(empty)
    with pytest.raises(ValueError, match="transform"):
        check_dataset(Dataset.from_list([ROWS["text"]]).with_transform(lambda batch: batch))
