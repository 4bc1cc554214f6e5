# Python's datasets opens what `data export` writes, and reads the same rows. Run by CI's peer job, where datasets is installed:
#   python test/peers/datasets_load.py <records.jsonl> <huggingface folder> <parquet file>
import json
import sys

import datasets

records, folder, parquet = sys.argv[1:]
reference = [json.loads(line) for line in open(records, encoding="utf-8")]
saved = datasets.load_from_disk(folder)
if isinstance(saved, datasets.DatasetDict):
    saved = datasets.concatenate_datasets([saved[split] for split in saved])
loaded = datasets.load_dataset("parquet", data_files=parquet)["train"]
for name, rows in (("load_from_disk", saved), ("parquet", loaded)):
    assert len(rows) == len(reference), f"{name}: {len(rows)} rows, expected {len(reference)}"
    for i, (row, expected) in enumerate(zip(rows, reference)):
        known = {column: value for column, value in row.items() if value is not None}
        assert known == {column: value for column, value in expected.items() if value is not None}, f"{name}: row {i} differs"
    print(f"{name}: {len(rows)} rows equal")
