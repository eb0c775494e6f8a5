"""Plain documents, a `text` column alone, are packed, long ones in parts of which all is learnt."""

import json
from collections import Counter

import pytest
import torch
from datasets import Dataset
from packed_rows import all_steps, bounds, mixed_documents, numbered, only, packed_mixture, plain

from transformers_arm.data.conversations import ConversationCollator, document
from transformers_arm.data.mixture import Source

PAGES = [f"page {number}: " + "the red circle. " * (12 * (number % 4)) for number in range(24)]


def pages_as(kind, folder):
    """A section of a recipe whose rows are `PAGES`, as such data come."""
    rows = [{"text": page, "id": str(number), "language_score": 0.9} for number, page in enumerate(PAGES)]
    renamed = Dataset.from_list([{"content": row["text"]} for row in rows])
    if kind == "json lines":
        (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"dataset": {"path": "json", "data_files": str(folder / "pages.jsonl"), "streaming": True}}
    if kind == "stated":
        Dataset.from_list([row | {"prompt": None} for row in rows]).to_parquet(folder / "pages.parquet")
        section = {"fill": {"task": "text"}}
    else:
        renamed.to_parquet(folder / "pages.parquet")
        section = {"rename": {"content": "text"}}
    files = {"path": "parquet", "data_files": str(folder / "pages.parquet"), "cache_dir": str(folder / "cache")}
    return section | {"dataset": files | {"streaming": kind == "parquet, streamed"}}


def learnt(rows):
    """The tokens of all that is learnt, counted; and how many documents and parts there are."""
    labels = torch.cat([row["labels"] for row in rows])
    return Counter(labels[labels != -100].tolist()), sum(int((row["position_ids"] == 0).sum()) for row in rows)


@pytest.mark.parametrize("kind", ["json lines", "parquet, streamed", "parquet, renamed", "stated"])
def test_plain_documents_are_packed_and_long_ones_in_parts_of_which_all_is_learnt(arm, tmp_path, kind):
    source = Source.from_recipe({**pages_as(kind, tmp_path), "shuffle": False})
    data = packed_mixture(arm, {"pages": source}, token_budget=60, streams=1, lookahead=4)
    rows, seen, expected = [], 0, ConversationCollator(arm[1].tokenizer, None, arm[0].config)
    whole = [expected.encode(source.conversation({"text": page}, 0), iter(())) for page in PAGES]
    assert max(len(ids) for ids, _ in whole) > 180
    for row in data:
        rows.append(row)
        seen = row["state"].packing.before.draws
        if seen >= 2 * len(PAGES):  # all of the first epoch are in rows by then
            break
    assert all(len(row["input_ids"]) <= 60 for row in rows)
    assert all(label == -100 for row in rows for label in row["labels"][row["position_ids"] == 0])
    tokens, _ = learnt(rows)
    once = Counter(token for _, labels in whole for token in labels[1:])
    assert all(tokens[token] >= 2 * count for token, count in once.items())
    assert tokens.total() <= 3 * once.total()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_goes_on_within_a_long_document(arm, processes):
    def new_data():
        sources = {"pages": Source(Dataset.from_dict({"text": PAGES})), "asked": numbered(20, longest=8)}
        return packed_mixture(arm, sources, token_budget=64, streams=4, lookahead=3)

    whole = all_steps(new_data, 30, processes=1, num_workers=0, batch_size=4)[0]
    for stopped in (1, 2, 5, 9):
        _, state = all_steps(new_data, stopped, processes=1, num_workers=0, batch_size=4)
        options = {"processes": processes, "num_workers": 0, "batch_size": 4 // processes}
        assert all_steps(new_data, 12, **options, state=state)[0] == whole[stopped : stopped + 12]


@torch.no_grad()
def test_a_plain_document_in_a_row_has_its_loss_alone_and_pictures_stand_beside_it(arm):
    model, conversations = arm[0], [document(PAGES[1]), *mixed_documents()[1:2], document(PAGES[2])]
    batch = plain(arm, conversations)
    for start, stop in bounds(batch):
        ids = {name: batch[name][:, start:stop] for name in ("input_ids", "labels")}
        if (ids["input_ids"] == model.config.image_token_id).any():
            continue
        torch.testing.assert_close(model(**only(batch, start, stop)).loss, model(**ids).loss, atol=1e-5, rtol=0)
    assert model(**batch).loss.isfinite()
