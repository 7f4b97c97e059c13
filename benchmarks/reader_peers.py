"""What the reader is measured against: plain webdataset iteration, and interleaving word by word."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.dataset import Dataset
from schemas.clock import SAMPLE_RATE


def webdataset_pass(dataset: Dataset, *, decode: bool) -> int:
    """Iterate over all samples; return their number. Decoded are the JSON member and the three npy members."""
    import webdataset

    urls = [dataset.shard(split) for split in range(dataset.num_splits)]
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    return sum(1 for _ in (samples.decode() if decode else samples))


class Aligned(NamedTuple):
    """A record as slamkit's extraction leaves it: deduplicated units with their durations, words with times."""

    units: list[int]
    seconds: list[float]
    words: list[tuple[str, float, float]]


def aligned_records(dataset: Dataset, limit: int) -> list[Aligned]:
    """Return the first records, in memory: reading them costs the peer nothing."""
    hop = dataset.contracts["hubert"].hop / SAMPLE_RATE
    found: list[Aligned] = []
    for split in range(dataset.num_splits):
        for record in dataset.records(split):
            if len(found) >= limit:
                return found
            ids = record.streams["hubert"]
            first = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
            lengths = np.diff(np.append(first, len(ids))) * hop
            words = [(w.text, w.start / SAMPLE_RATE, w.end / SAMPLE_RATE) for w in record.words
                     if w.start is not None and w.end is not None]  # fmt: skip
            found.append(Aligned(ids[first].tolist(), lengths.tolist(), words))
    return found


def unit_tokenizer(texts: Sequence[str], units: int) -> Callable[[str], list[int]]:
    """Return transformers' tokenizer over a byte-level BPE of 8,000 pieces that knows `<speech>`, `<text>` and units.

    slamkit calls a tokenizer of transformers, so this does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    tokenizer.add_special_tokens(["<speech>", "<text>", *(f"<Un{unit}>" for unit in range(units))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return lambda text: fast(text)["input_ids"]


def word_by_word_pass(records: Sequence[Aligned], tokenize: Callable[[str], list[int]], seed: int) -> int:
    """Interleave each record word by word into a string and tokenize that, as slamkit does; return the tokens."""
    rng = np.random.default_rng(seed)
    return sum(len(tokenize(interleaved(record, rng))) for record in records)


def interleaved(record: Aligned, rng: np.random.Generator, *, mean: float = 10.0, share: float = 0.3) -> str:
    spoken = poisson_words(len(record.words), rng, mean=mean, share=share)
    ends = list(accumulate(record.seconds))
    text, now = "", ""
    for (word, start, end), is_speech in zip(record.words, spoken.tolist(), strict=True):
        modality = "<speech>" if is_speech else "<text>"
        if modality != now:
            text += modality
            now = modality
        if is_speech:
            for unit in record.units[bisect_right(ends, start) : bisect_right(ends, end)]:
                text += f"<Un{unit}>"
        else:
            text += " " + word
    return text


def poisson_words(count: int, rng: np.random.Generator, *, mean: float, share: float) -> npt.NDArray[np.bool_]:
    """Choose spans of Poisson length, none overlapping, until a share of the words is speech."""
    chosen = np.zeros(count, dtype=bool)
    for _ in range(100):
        if chosen.sum() >= share * count:
            break
        length = min(count, max(1, int(rng.poisson(mean))))
        start = int(rng.integers(0, count - length + 1))
        if not chosen[start : start + length].any():
            chosen[start : start + length] = True
    return chosen


def transcripts(dataset: Dataset, limit: int) -> list[str]:
    """Return the texts of the first records."""
    found: list[str] = []
    for split in range(dataset.num_splits):
        found += [record.text for record in dataset.records(split)]
        if len(found) >= limit:
            break
    return found[:limit]


def size_of(dataset: Dataset) -> int:
    """Return the bytes of all shards."""
    return sum(Path(dataset.shard(split)).stat().st_size for split in range(dataset.num_splits))


def baked_source(folder: str) -> tuple[Any, Any]:
    """Return the source and the vocabulary of a bake."""
    from pipeline.reader.baked_source import BakedSource, baked_vocabulary

    vocabulary = baked_vocabulary(folder)
    return BakedSource(folder, vocabulary), vocabulary
