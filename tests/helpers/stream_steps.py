"""What may be done to a streamed dataset, and what a mixture then says it is made of."""

from datasets import concatenate_datasets, interleave_datasets, load_dataset

from transformers_arm.data.mixture import Source


def first_words(row):
    return {"prompt": row["prompt"].split()[0]}


STEPS = {
    "nothing": lambda rows: rows,
    "shuffle": lambda rows: rows.shuffle(seed=0, buffer_size=10),
    "another seed": lambda rows: rows.shuffle(seed=1, buffer_size=10),
    "another buffer": lambda rows: rows.shuffle(seed=0, buffer_size=11),
    "filter": lambda rows: rows.filter(lambda row: len(row["prompt"]) % 2 == 0),
    "another filter": lambda rows: rows.filter(lambda row: len(row["prompt"]) % 2 == 1),
    "skip": lambda rows: rows.skip(1),
    "more skipped": lambda rows: rows.skip(7),
    "take": lambda rows: rows.take(7),
    "map": lambda rows: rows.map(first_words),
    "another map": lambda rows: rows.map(lambda row: {"prompt": row["prompt"].lower()}),
    "batched": lambda rows: rows.map(lambda rows: {"prompt": rows["prompt"]}, batched=True, batch_size=2),
    "other batches": lambda rows: rows.map(lambda rows: {"prompt": rows["prompt"]}, batched=True, batch_size=3),
    "arguments": lambda rows: rows.map(lambda row, by: {"prompt": row["prompt"] * by}, fn_kwargs={"by": 1}),
    "other arguments": lambda rows: rows.map(lambda row, by: {"prompt": row["prompt"] * by}, fn_kwargs={"by": 2}),
    "interleaved": lambda rows: interleave_datasets([rows, rows], probabilities=[0.5, 0.5], seed=0),
    "otherwise": lambda rows: interleave_datasets([rows, rows], probabilities=[0.4, 0.6], seed=0),
    "concatenated": lambda rows: concatenate_datasets([rows, rows.skip(1)]),
    "one more": lambda rows: concatenate_datasets([rows, rows.skip(2)]),
}


def made_of_steps(folder):
    """What a stream is made of behind each of the steps."""
    found = {}
    for name, step in STEPS.items():
        rows = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        found[name] = Source(step(rows)).reader("a").made_of()
    return found
