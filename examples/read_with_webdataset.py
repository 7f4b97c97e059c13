"""Print the words and units of a dataset's first records with nothing but `webdataset` and numpy.

python read_with_webdataset.py DATASET
"""

import io
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import webdataset


def main(dataset: str) -> None:
    shards = sorted(map(str, Path(dataset, "shards").glob("shard-*.tar")))
    for sample in islice(webdataset.WebDataset(shards, shardshuffle=False), 3):
        units = np.load(io.BytesIO(sample["hubert.npy"]), allow_pickle=False)  # uint16, one id per frame
        print(sample["__key__"], len(units), "units:", *units[:8])
        for text, start, end, _score in json.loads(sample["json"])["words"]:  # half-open, in samples at 16 kHz
            print(f"  {start} {end} {text}")


if __name__ == "__main__":
    main(sys.argv[1])
