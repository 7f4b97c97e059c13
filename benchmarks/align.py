"""Cost of the CTC path search against torchaudio's and whisperX's, on the same made-up emissions, one thread each.

    python -m benchmarks.align [--quick] [--seed 1]

Utterances: `stages.ctc_search.align_ctc`, `torchaudio.functional.forced_align`, and `get_trellis` + `backtrack` as
`whisperx.alignment.align` calls them. Long audio: ten minutes with ours and torchaudio's, an hour with ours only; each
in a process of its own, whose peak of resident memory is read before and after the search. Times are CPU times.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.ctc_search import CtcPath, align_ctc

BLANK, VOCAB = 0, 32
FRAMES_PER_SECOND = 50
Search = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int32]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A clip's length and its characters: 13 per second is a lively reader."""

    name: str
    seconds: int
    targets: int

    @property
    def frames(self) -> int:
        return self.seconds * FRAMES_PER_SECOND

    @property
    def cells(self) -> int:
        return self.frames * (2 * self.targets + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRun:
    cpu_seconds: float
    peak_bytes: int
    nats: float


UTTERANCES = (Case(name="10 s", seconds=10, targets=130), Case(name="30 s", seconds=30, targets=400))
TEN_MINUTES = Case(name="10 min", seconds=600, targets=7_500)
HOUR = Case(name="1 h", seconds=3_600, targets=45_000)
QUICK = (Case(name="1 min", seconds=60, targets=750), Case(name="3 min", seconds=180, targets=2_250))


def emissions(case: Case, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return log-probabilities peaked along a true path, as models trained with CTC give them, and its targets."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, VOCAB, case.targets).astype(np.int32)
    at = np.sort(rng.choice(case.frames // 2, case.targets, replace=False)) * 2
    log_probs = np.empty((case.frames, VOCAB), np.float32)
    for start in range(0, case.frames, 4_096):
        part = rng.normal(0, 1.5, log_probs[start : start + 4_096].shape)
        part[:, BLANK] += 4
        here = slice(*np.searchsorted(at, (start, start + len(part))))
        part[at[here] - start, targets[here]] += 7
        part -= part.max(axis=1, keepdims=True)
        log_probs[start : start + len(part)] = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
    return log_probs, targets


def ours(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> CtcPath | None:
    return align_ctc(log_probs, targets, BLANK)


def torchaudios(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> object:
    import torch
    from torchaudio.functional import forced_align

    return forced_align(torch.from_numpy(log_probs)[None], torch.from_numpy(targets)[None], blank=BLANK)


def whisperxs(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> object:
    import torch
    from whisperx.alignment import backtrack, get_trellis

    emission, tokens = torch.from_numpy(log_probs), targets.tolist()
    return backtrack(get_trellis(emission, tokens, BLANK), emission, tokens, BLANK)


SEARCHES: dict[str, Search] = {"ours": ours, "torchaudio": torchaudios, "whisperX": whisperxs}


def milliseconds(search: Search, case: Case, seed: int, repeats: int) -> list[float]:
    log_probs, targets = emissions(case, seed)
    search(log_probs, targets)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        search(log_probs, targets)
        times.append((time.process_time() - start) * 1e3)
    return times


def utterances(seed: int, repeats: int) -> None:
    print(f"utterances, CPU ms over {repeats} runs")
    for case in UTTERANCES:
        times = {name: milliseconds(search, case, seed, repeats) for name, search in SEARCHES.items()}
        mine = times["ours"]
        for name, theirs in times.items():
            ratio = f"x{min(theirs) / min(mine):.1f} / x{statistics.median(theirs) / statistics.median(mine):.1f}"
            figures = f"least {min(theirs):8.2f}   median {statistics.median(theirs):8.2f}"
            print(f"  {case.name}, {case.targets} characters   {name:10s} {figures}   of ours {ratio}")


def long_run(name: str, case: Case, seed: int) -> LongRun:
    with tempfile.TemporaryDirectory() as folder:
        for key, array in zip(("log_probs", "targets"), emissions(case, seed), strict=True):
            np.save(Path(folder) / f"{key}.npy", array)
        command = [sys.executable, "-m", "benchmarks.align", "--search", name, "--folder", folder]
        return LongRun(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def run_here(name: str, folder: Path) -> LongRun:
    """Search once in this process, after a small search that loads everything."""
    log_probs, targets = np.load(folder / "log_probs.npy"), np.load(folder / "targets.npy")
    search = SEARCHES[name]
    search(log_probs[:200], targets[:1])
    before, start = _peak_bytes(), time.process_time()
    found = search(log_probs, targets)
    spent = time.process_time() - start
    nats = found.nats.sum(dtype=np.float64) if isinstance(found, CtcPath) else found[1].double().sum()  # type: ignore[index]
    return LongRun(cpu_seconds=spent, peak_bytes=_peak_bytes() - before, nats=float(nats))


def _peak_bytes() -> int:
    """Return the most memory this process has held since it began. `ru_maxrss` would begin with its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def long_audio(both: Case, longest: Case, seed: int) -> None:
    print("long audio, one run each; a cell is a frame x state, states are 2 x characters + 1")
    wanted = ((both, "torchaudio"), (both, "ours"), (longest, "ours"))
    runs = [(case, name, long_run(name, case, seed)) for case, name in wanted]
    for case, name, run in runs:
        print(
            f"  {case.name}, {case.targets} characters   {name:10s} {run.cpu_seconds:7.2f} s"
            f"   {run.cpu_seconds / case.frames * 1e6:7.1f} us per frame"
            f"   {run.cpu_seconds / case.cells * 1e9:5.2f} ns per cell"
            f"   peak memory +{run.peak_bytes / 2**20:.0f} MiB   {run.nats:.4f} nats"
        )
    (_, _, theirs), _, (_, _, hour) = runs
    at_their_rate = theirs.cpu_seconds / both.cells * longest.cells
    print(
        f"  {longest.name}: torchaudio's back-pointers, one byte per cell, would take {longest.cells / 2**20:.0f} MiB, "
        f"x{longest.cells / max(1, hour.peak_bytes):.0f} of our peak"
    )
    print(
        f"  at its rate per cell it would take {at_their_rate:.1f} s, x{at_their_rate / hour.cpu_seconds:.1f} of ours"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small trial: few repeats, minutes for the hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--search", choices=sorted(SEARCHES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    _one_thread()
    if args.search:
        print(json.dumps(asdict(run_here(args.search, args.folder))))
        return
    utterances(args.seed, 5 if args.quick else 31)
    long_audio(*(QUICK if args.quick else (TEN_MINUTES, HOUR)), args.seed)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
