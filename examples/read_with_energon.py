"""Read a dataset through Megatron-Energon, which needs no prepare step of its own: one epoch of shuffled batches.

pip install megatron-energon; python read_with_energon.py DATASET
"""

import sys
from typing import Any

import torch
from megatron.energon import (
    Batch,
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
)


@edataclass
class Utterance(Sample):
    """Units, int64, shape (num_frames,), and words as [text, start, end, score] with times in samples at 16 kHz."""

    units: torch.Tensor
    words: list[Any]


@edataclass
class UtteranceBatch(Batch):
    """Units padded with -1, shape (batch, most frames), and the words of each utterance."""

    units: torch.Tensor
    words: list[list[Any]]


@stateless
def cook(sample: dict[str, Any]) -> Utterance:
    units = torch.as_tensor(sample["hubert.npy"].astype("int64"))
    return Utterance(**basic_sample_keys(sample), units=units, words=sample["json"]["words"])


class Utterances(DefaultTaskEncoder):
    """Turns the shards' samples into utterances and those into padded batches."""

    cookers = (Cooker(cook),)

    @stateless
    def batch(self, samples: list[Utterance]) -> UtteranceBatch:
        units = torch.nn.utils.rnn.pad_sequence([s.units for s in samples], batch_first=True, padding_value=-1)
        return UtteranceBatch.from_samples(samples, units=units, words=[s.words for s in samples])


def main(dataset: str) -> None:
    train = get_train_dataset(
        dataset,
        worker_config=WorkerConfig.default_worker_config(num_workers=0),
        batch_size=4,
        shuffle_buffer_size=16,
        max_samples_per_sequence=None,
        repeat=False,
        task_encoder=Utterances(),
    )
    for batch in get_loader(train):
        print(tuple(batch.units.shape), *batch.__key__)


if __name__ == "__main__":
    main(sys.argv[1])
