"""Units from a speech encoder: cost, and how many ids differ from those that each clip gives alone.

    python -m benchmarks.units                       48 clips of 1.5 to 20 s, HuBERT base's shape, about 10 minutes
    python -m benchmarks.units --clips 8 --layers 2  a trial
    python -m benchmarks.units --long 600            windows against a single pass, on a recording of 600 s
    python -m benchmarks.units --checkpoint FOLDER   with weights on this machine; --layers is the layer to read

Weights are random unless a folder is given, speech is the example corpus, and the codebook is k-means on the model's
own features. One thread, all in one process, so that the figures can be compared: plain is batches of 16 clips sorted
by length, padded with zeros, through transformers' forward without a mask, as published unit extractors do it; alone
is transformers' forward clip by clip, whose ids are the reference. CPU seconds are of this process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples
from stages.checkpoints import checkpoint_of
from stages.kmeans import fit_kmeans
from stages.kmeans_quantiser import KmeansQuantiser
from stages.speech_encoder import SpeechEncoder, load_encoder
from stages.speech_facts import EncoderFacts

CORPUS = Path(__file__).parent.parent / "examples" / "corpus" / "audio"
BATCH = 16
CLUSTERS = 500

Wave = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint16]


class Row(NamedTuple):
    name: str
    cpu: float
    wall: float
    ids: list[Ids]


def main() -> None:
    import torch

    options = parsed()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = options.checkpoint or made
        model = given_model(folder) if options.checkpoint else random_model(Path(folder), options.layers, options.seed)
        checkpoint = checkpoint_of(folder)
        encoders = {
            precision: load_encoder(checkpoint, layer=options.layer, precision=precision)
            for precision in ("float32", "bfloat16")
        }
    if options.long:
        return windows(encoders["float32"], options.long, options.seed)
    batches(model, encoders, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--layers", type=int, default=12, help="transformer layers of the model")
    parser.add_argument(
        "--layer", type=int, default=None, help="that is read; by default the last but one, as TWIST and Spirit LM do"
    )
    parser.add_argument("--long", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="a Hugging Face folder instead of random weights")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.layer is None:
        options.layer = options.layers if options.checkpoint else max(1, options.layers - 1)
    return options


def batches(model: Any, encoders: dict[str, SpeechEncoder], options: argparse.Namespace) -> None:
    waves = clips(options.clips, options.seed)
    seconds = sum(map(len, waves)) / SAMPLE_RATE
    facts = encoders["float32"].facts
    quantiser = codebook(encoders["float32"], waves)
    read = f"layer {options.layer} of {facts.num_layers}"
    print(f"{len(waves)} clips, {seconds:.0f} s; {read}; {CLUSTERS} clusters; one thread")
    work: dict[str, Callable[[], Iterator[Any]]] = {
        "alone (reference)": lambda: alone(model, normalised(waves, facts), options.layer),
        "plain, padded by 16": lambda: plain(model, normalised(waves, facts), options.layer),
        "ours, float32": lambda: iter(encoders["float32"].encode(waves)),
        "ours, bfloat16": lambda: iter(encoders["bfloat16"].encode(waves)),
    }
    rows = [measured(name, run, quantiser) for name, run in work.items()]
    rates = {"float32": matrix_rate("float32"), "bfloat16": matrix_rate("bfloat16")}
    # transformers computes every layer, whichever is read.
    every, needed = (sum(operations(facts, len(w), n) for w in waves) for n in (facts.num_layers, options.layer))
    report(rows, seconds, {row.name: needed if row.name.startswith("ours") else every for row in rows}, rates)
    single = measured("", lambda: (next(iter(encoders["float32"].encode([wave]))) for wave in waves), quantiser)
    total = sum(map(len, single.ids))
    print(f"ours, float32, against ours clip by clip: {others(rows[2], single)} of {total} ids are others")


def others(row: Row, reference: Row) -> int:
    return sum(int((a != b).sum()) for a, b in zip(row.ids, reference.ids, strict=True))


def report(rows: Sequence[Row], seconds: float, counted: dict[str, float], rates: dict[str, float]) -> None:
    reference, padded = rows[0], rows[1]
    print(
        f"matrix products: {rates['float32'] / 1e9:.0f} GFLOP/s in float32, {rates['bfloat16'] / 1e9:.0f} in bfloat16"
    )
    print(
        f"{'':20s} {'CPU s':>7s} {'wall s':>7s} {'audio s/CPU s':>14s} {'of plain':>9s} {'other ids':>10s} {'rate':>6s}"
    )
    total = sum(map(len, reference.ids))
    for row in rows:
        other = others(row, reference) / total
        rate = counted[row.name] / row.cpu / rates["bfloat16" if row.name.endswith("bfloat16") else "float32"]
        print(
            f"{row.name:20s} {row.cpu:7.2f} {row.wall:7.2f} {seconds / row.cpu:14.2f} {padded.cpu / row.cpu:8.2f}x "
            f"{100 * other:9.4f}% {100 * rate:5.0f}%"
        )


def measured(name: str, run: Callable[[], Iterator[Any]], quantiser: KmeansQuantiser) -> Row:
    """Run and quantise; the price of k-means is part of it."""
    import torch

    cpu, wall = time.process_time(), time.perf_counter()
    with torch.inference_mode():
        ids = [quantiser.assign(rows.numpy()).ids for rows in run()]
    return Row(name, time.process_time() - cpu, time.perf_counter() - wall, ids)


def alone(model: Any, waves: Sequence[Wave], layer: int) -> Iterator[Any]:
    import torch

    for wave in waves:
        yield model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states[layer][0]


def plain(model: Any, waves: Sequence[Wave], layer: int) -> Iterator[Any]:
    import torch

    order = sorted(range(len(waves)), key=lambda i: -len(waves[i]))
    found: dict[int, Any] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(waves[i]) for i in chosen], batch_first=True)
        hidden = model(padded, output_hidden_states=True).hidden_states[layer]
        lengths = model._get_feat_extract_output_lengths(torch.tensor([len(waves[i]) for i in chosen])).tolist()
        found |= {i: rows[:length] for i, rows, length in zip(chosen, hidden, lengths, strict=True)}
    return (found[i] for i in range(len(waves)))


def normalised(waves: Sequence[Wave], facts: EncoderFacts) -> list[Wave]:
    """Return the clips as transformers' feature extractor hands them to the model."""
    if facts.wave_epsilon is None:
        return list(waves)
    return [(wave - wave.mean()) / np.sqrt(wave.var() + facts.wave_epsilon) for wave in waves]


def windows(encoder: SpeechEncoder, seconds: float, seed: int) -> None:
    import torch

    speech = corpus()
    wave = np.resize(np.roll(speech, seed), int(seconds * SAMPLE_RATE))
    quantiser = codebook(encoder, [wave[: 60 * SAMPLE_RATE]])
    whole = encoder.encode([wave])[0]
    reference = quantiser.assign(whole.numpy()).ids
    print(f"a recording of {seconds:.0f} s in windows against a single pass, {encoder.facts.num_layers} layers")
    for window, context in ((100, 5), (100, 0), (30, 5), (30, 2), (10, 2)):
        cpu = time.process_time()
        with torch.inference_mode():
            joined = encoder.encode_long(wave, Samples(window * SAMPLE_RATE), Samples(context * SAMPLE_RATE))
        cpu = time.process_time() - cpu
        other = (quantiser.assign(joined.numpy()).ids != reference).mean()
        apart = float((joined - whole).norm() / whole.norm())
        print(
            f"windows of {window} s, context {context} s: {100 * other:.3f}% other ids, features differ by "
            f"{apart:.1e}, {seconds / cpu:.2f} s of audio per CPU s"
        )


def given_model(folder: str) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, local_files_only=True).eval()


def random_model(folder: Path, layers: int, seed: int) -> Any:
    """Return transformers' HuBERT of the base shape with random weights, and keep it as a checkpoint in a folder."""
    import torch
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(seed)
    model = HubertModel(HubertConfig(num_hidden_layers=layers)).eval()
    model.save_pretrained(folder)
    return model


def codebook(encoder: SpeechEncoder, waves: Sequence[Wave]) -> KmeansQuantiser:
    rows = np.concatenate([rows.numpy() for rows in encoder.encode(waves[:12])])
    chosen = np.random.default_rng(0).permutation(len(rows))[: 10 * CLUSTERS]
    return KmeansQuantiser(fit_kmeans(rows[np.sort(chosen)], min(CLUSTERS, len(chosen)), 0))


def clips(count: int, seed: int) -> list[Wave]:
    """Return clips of 1.5 to 20 s cut from the corpus laid end to end."""
    speech, rng = corpus(), np.random.default_rng(seed)
    lengths = (rng.uniform(1.5, 20, count) * SAMPLE_RATE).astype(int)
    starts = rng.integers(0, len(speech), count)
    return [np.resize(np.roll(speech, -start), length) for start, length in zip(starts, lengths, strict=True)]


def corpus() -> Wave:
    import soundfile

    found = [soundfile.read(path, dtype="float32") for path in sorted(CORPUS.rglob("*.*")) if path.suffix != ".json"]
    return np.concatenate([wave for wave, rate in found if rate == SAMPLE_RATE and wave.ndim == 1])


def operations(facts: EncoderFacts, num_samples: int, layers: int) -> float:
    """Return the floating-point operations of a clip's matrix products and convolutions, two per multiplication."""
    counted, length, channels = 0.0, num_samples, 1
    for conv in facts.conv:
        length = (length - conv.kernel) // conv.stride + 1
        counted += length * channels * conv.kernel * conv.channels
        channels = conv.channels
    width = facts.width
    position = width // facts.pos_groups * facts.pos_kernel
    layer = 4 * width + 2 * facts.inner + 2 * length
    return 2 * (counted + length * width * (channels + position + layers * layer))


def matrix_rate(precision: str) -> float:
    """Return operations per CPU second of torch's product of a clip's frames with a feed-forward weight."""
    import torch

    rows, weight = torch.randn(500, 768), torch.randn(768, 3072)
    rows, weight = rows.to(getattr(torch, precision)), weight.to(getattr(torch, precision))
    best = float("inf")
    for _ in range(30):
        start = time.process_time()
        torch.mm(rows, weight)
        best = min(best, time.process_time() - start)
    return 2 * 500 * 768 * 3072 / best


if __name__ == "__main__":
    main()
