"""Read a dataset's shards and statistics with Hugging Face `datasets`.

pip install datasets; python read_with_datasets.py DATASET
"""

import sys
from itertools import islice

from datasets import Features, List, Value, load_dataset

# `datasets` cannot guess the types of `words`, a list of [text, start, end, score], so they are named here; members
# that are not named are left out. Streaming leaves times and scores as numbers; without it every value is JSON text.
FEATURES = Features(
    {
        "__key__": Value("string"),
        "hubert.npy": List(Value("uint16")),
        "json": {"text": Value("string"), "num_samples": Value("int64"), "words": List(List(Value("string")))},
    }
)


def main(dataset: str) -> None:
    files = {"train": f"{dataset}/shards/shard-*.tar"}
    shards = load_dataset("webdataset", data_files=files, split="train", streaming=True, features=FEATURES)
    for sample in islice(shards, 3):
        print(sample["__key__"], len(sample["hubert.npy"]), "units:", *sample["hubert.npy"][:8])
        for text, start, end, _score in sample["json"]["words"]:
            print(f"  {start} {end} {text}")
    # Without a batch size, the statistics of a split whose rows were all rejected end the loading.
    tables = f"{dataset}/shards/*.stats.parquet"
    statistics = load_dataset("parquet", data_files=tables, split="train", batch_size=1000)
    print(len(statistics), "records of", sum(statistics["num_samples"]) / 16_000, "s")


if __name__ == "__main__":
    main(sys.argv[1])
