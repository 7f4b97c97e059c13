"""Train the pitch VQ-VAE of the tests on the F0 of the example corpus, and write what it is worth beside it.

Usage: python scripts/make_vqvae_tiny.py FOLDER [--clips N] [--steps N]

Every fourth recording is held out. One thread; the same machine gives the same bytes. About 2.5 minutes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from pipeline.manifest import read_manifest
from schemas.records import Clip, Utterance
from stages.checkpoints import checkpoint_of, read_tensors
from stages.decode import DecodeConfig
from stages.f0_fcpe import FcpeConfig
from stages.pitch_vqvae import VqvaeFeatures, VqvaePitchConfig
from stages.vqvae import DOWNSAMPLING, Vqvae, encode, load_vqvae
from stages.vqvae_fit import decode, fit_vqvae

CORPUS = Path(__file__).parent.parent / "examples" / "corpus" / "manifest.jsonl"
CLUSTERS, STEPS, SEED = 64, 2000, 1

README = """# pitch_vqvae

A pitch VQ-VAE in the layout of Spirit LM's `vqvae_f0_quantizer`, trained by `scripts/make_vqvae_tiny.py` on F0 (FCPE,
10 ms, repeated to 5 ms) of {trained} utterances of `examples/corpus`; CC0-1.0 like the corpus. For tests: a corpus of
some minutes teaches no general codebook.

{clusters} codes, {steps} steps, seed {seed}. Errors are means of absolute differences over all frames of 5 ms, F0
relative to the clip's mean and interpolated where unvoiced. The constant predictor gives the clip's mean; the mean of
each 80 ms is what a code of its level alone could give at best.

| | frames | codes used | perplexity | F0 error | constant predictor | mean of each 80 ms | voicing right |
|---|---|---|---|---|---|---|---|
{rows}
"""


def corpus_clips(limit: int) -> list[Clip]:
    rows = [row for row in read_manifest(str(CORPUS)) if isinstance(row, Utterance)]
    return [clip for clip in DecodeConfig().setup().process(rows[:limit]) if isinstance(clip, Clip)]


def figures(name: str, model: Vqvae, decoder: dict[str, torch.Tensor], inputs: list[np.ndarray]) -> str:
    """Return a row of the table; frames after the last whole code are left out."""
    ids, errors, constant, means, right = [], [], [], [], []
    with torch.inference_mode():
        for rows in inputs:
            count = len(rows) // DOWNSAMPLING
            if not count:
                continue
            latent = encode(model.tensors, model.shape, torch.from_numpy(rows.T.copy())[None])[0].T
            ids.append(torch.cdist(latent, model.codebook).argmin(1))
            told = decode(decoder, model.shape, model.codebook[ids[-1]].T[None])[0].numpy()
            f0, voiced = rows[: count * DOWNSAMPLING].T
            errors.append(np.abs(told[0] - f0))
            constant.append(np.abs(f0))
            frames = f0.reshape(count, DOWNSAMPLING)
            means.append(np.abs(frames - frames.mean(1, keepdims=True)).ravel())
            right.append((told[1] > 0.5) == (voiced > 0.5))
    share = np.bincount(np.concatenate(ids), minlength=model.shape.bins) / sum(map(len, ids))
    perplexity = np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))
    hertz = [np.concatenate(parts).mean() for parts in (errors, constant, means)]
    cells = [f"{len(np.concatenate(errors)):,}", str((share > 0).sum()), f"{perplexity:.1f}"]
    cells += [f"{value:.1f} Hz" for value in hertz] + [f"{np.concatenate(right).mean():.1%}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    estimator, source = FcpeConfig().load(), VqvaeFeatures()
    clips = corpus_clips(args.clips)
    held = sorted({clip.utterance.recording for clip in clips})[::4]
    parts: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for clip in clips:
        rows = source.features(clip, estimator.track(clip.pcm))
        parts[clip.utterance.recording in held].append(rows)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, data in fit_vqvae(lambda: iter(parts[False]), CLUSTERS, args.steps, SEED).items():
        (args.folder / name).write_bytes(data)
    VqvaePitchConfig(checkpoint=checkpoint_of(str(args.folder)), clusters=CLUSTERS).check()
    model = load_vqvae(args.folder, CLUSTERS)
    decoder = read_tensors(args.folder / "model.pt")["model"]
    names = {False: "learnt from", True: "held out"}
    table = [figures(names[part], model, decoder, parts[part]) for part in parts if parts[part]]
    readme = README.format(
        trained=len(parts[False]), clusters=CLUSTERS, steps=args.steps, seed=SEED, rows="\n".join(table)
    )
    (args.folder / "README.md").write_text(readme)
    print("\n".join(table))


if __name__ == "__main__":
    main()
