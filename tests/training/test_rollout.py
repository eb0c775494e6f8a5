"""What becomes of a batch whose rows can no longer be read: other groups of it are drawn, on all processes alike."""

from two_processes import run_two_processes

GROUPS = """
import logging
import sys
from functools import partial
from pathlib import Path

from accelerate import PartialState
from torch import Generator

from transformers_arm import ArmImageProcessor
from transformers_arm.data.row_errors import RowError, Skipping
from transformers_arm.fetching_arm import FROM_CALLER
from transformers_arm.training.rollout import Rollout, readable

folder, rank = Path(sys.argv[2]), int(sys.argv[3])
PartialState(cpu=True)
logging.basicConfig(level=logging.WARNING)
DEAD = {"source_image": "http://127.0.0.1:9/a.png"}
processor = ArmImageProcessor(size={"height": 48, "width": 48})
read = partial(Rollout, image_processor=processor, fetcher=FROM_CALLER, generator=lambda place, prompt: Generator())


def drawn(*groups, max_skipped=0.05):
    '''The prompts of both processes, which have six rows of three groups each.'''
    rows = [{"prompt": prompt, **source} for prompt, source in groups for _ in range(4)][6 * rank :][:6]
    skipping = Skipping("train_dataset", max_skipped)
    try:
        rollout = readable(read, rows, 6 * rank, 4, skipping)
    except (RowError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    found = "".join(request.prompt for request in rollout)
    return f"{found} {skipping.tally.rows} {skipping.tally.skipped.total()}"


print(drawn(("a", {}), ("b", {}), ("c", {})))
print(drawn(("a", {}), ("b", DEAD), ("c", {})))
print(drawn(("a", DEAD), ("b", {}), ("c", DEAD)))
print(drawn(("a", DEAD), ("b", DEAD), ("c", DEAD)))
print(drawn(("a", DEAD), ("b", {}), ("c", {}), max_skipped=0.0))
PartialState().destroy_process_group()
"""


def test_groups_that_straddle_processes_give_way_on_both(tmp_path):
    run_two_processes(GROUPS, tmp_path)
    one, two = ((tmp_path / f"output-{rank}.txt").read_text() for rank in (0, 1))
    for output, prompts in ((one, ("aaaabb", "aaaacc", "bbbbbb")), (two, ("bbcccc", "cccccc", "bbbbbb"))):
        lines = [line for line in output.splitlines() if not line.startswith("WARNING")]
        assert lines[:3] == [f"{each} 3 {skipped}" for each, skipped in zip(prompts, (0, 1, 2), strict=True)]
        assert lines[3].startswith("RowError: Row with prompt 'a', column 'source_image': http://127.0.0.1:9/a.png")
        assert lines[4].startswith("ValueError: 1 of 100 rows cannot be used, more than max_skipped 0.0 allows")
        assert "train_dataset, skipped: Row with prompt 'b', column 'source_image': http://127" in output
