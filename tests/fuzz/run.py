"""Fuzz one target for long: `python -m tests.fuzz.run --target audio --minutes 10 --out findings`.

Inputs are drawn and tried in a child whose memory is limited (RLIMIT_AS) and which writes each input down before it is
tried, so that a crash, a hang (--hang seconds) and memory without end are findings like an exception that is not
documented. Minutes are minutes of CPU. `--replay FILE` tries one finding again. Exit code 1 where something was found.
"""

import argparse
import faulthandler
import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz import targets

ROOT = Path(__file__).resolve().parents[2]
SLOW_SECONDS = 5.0
MAX_FINDINGS = 50


class TooSlow(BaseException):
    """An input took longer than SLOW_SECONDS of CPU in code that Python can interrupt."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, choices=targets.NAMES)
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder for findings [default: a new temporary one]")
    parser.add_argument("--memory-gb", type=float, default=3.0, help="address space of the child")
    parser.add_argument("--hang", type=float, default=60.0, help="seconds without an input done that are a hang")
    parser.add_argument("--replay", type=Path, help="a finding's file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.replay is not None:
        targets.load(args.target).check(args.replay.name.split("-")[1], args.replay.read_bytes())
        return 0
    args.out = args.out or Path(tempfile.mkdtemp(prefix="interloom-findings-"))
    args.out.mkdir(parents=True, exist_ok=True)
    return _child(args) if args.child else _parent(args)


def _parent(args: argparse.Namespace) -> int:
    """Start children until the CPU minutes are spent; a child that dies or stands still leaves its input behind."""
    spent, tried, seed, findings = 0.0, 0, args.seed, Counter[str]()
    while spent < args.minutes * 60 and len(findings) < MAX_FINDINGS:
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--target", args.target, "--seed", str(seed)]
        command += ["--minutes", str(args.minutes - spent / 60), "--out", str(args.out)]
        command += ["--memory-gb", str(args.memory_gb)]
        child = subprocess.Popen(command, cwd=ROOT)
        hung = _watch(child, args)
        state = json.loads((args.out / f"state-{args.target}.json").read_text())
        spent, tried, seed = spent + max(state["cpu"], 0.1), tried + state["tried"], seed + 1
        findings.update(state["findings"])
        if hung or child.returncode not in (0, 1):
            what = "hang" if hung else f"exit-{child.returncode}"
            findings[_keep(args, (args.out / f"current-{args.target}").read_bytes(), what)] += 1
    print(f"{args.target}: {tried:,} inputs, {spent / 60:.1f} CPU minutes, seeds {args.seed}..{seed - 1}, ", end="")
    print(f"{len(findings)} findings" + (f" in {args.out}" if findings else ""))
    for name, count in findings.most_common():
        print(f"  {count:6} x {name}")
    return 1 if findings else 0


def _watch(child: "subprocess.Popen[bytes]", args: argparse.Namespace) -> bool:
    """Wait for the child; kill it and return True when it stands still."""
    last, since = -1.0, time.monotonic()
    current = args.out / f"current-{args.target}"
    while child.poll() is None:
        time.sleep(1.0)
        changed = current.stat().st_mtime if current.exists() else 0.0
        if changed != last:
            last, since = changed, time.monotonic()
        elif time.monotonic() - since > args.hang:
            child.kill()
            child.wait()
            return True
    return False


def _child(args: argparse.Namespace) -> int:
    faulthandler.enable()
    limit = int(args.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, _too_slow)
    target, rng = targets.load(args.target), random.Random(args.seed)
    current, state = args.out / f"current-{args.target}", args.out / f"state-{args.target}.json"
    found: Counter[str] = Counter()
    tried, told = 0, 0.0
    while time.process_time() < args.minutes * 60 and len(found) < MAX_FINDINGS:
        kind, data = target.example(rng)
        current.write_bytes(kind.encode() + b"\n" + data)
        if time.process_time() - told > 2 or not tried:
            told = time.process_time()
            state.write_text(json.dumps({"cpu": told, "tried": tried, "findings": found}))
        tried += 1
        if problem := _problem(target, kind, data):
            found[_keep(args, kind.encode() + b"\n" + data, problem)] += 1
    state.write_text(json.dumps({"cpu": time.process_time(), "tried": tried, "findings": found}))
    return 1 if found else 0


def _problem(target: targets.Target, kind: str, data: bytes) -> str:
    """Return a short name of what came out, "" where nothing did."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SLOW_SECONDS)
    try:
        target.check(kind, data)
    except (Exception, TooSlow) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(ROOT))]
        last = [f for f in frames if "/site-packages/" not in f.filename][-1]
        return f"{type(error).__name__}@{Path(last.filename).stem}.{last.name}.{last.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return ""


def _keep(args: argparse.Namespace, current: bytes, what: str) -> str:
    """Save an input under its target, kind and what came of it; the smallest of each is kept."""
    kind, _, data = current.partition(b"\n")
    name = f"{args.target}-{kind.decode()}-{what}"
    path = args.out / name
    if not path.exists() or path.stat().st_size > len(data):
        path.write_bytes(data)
        (args.out / f"{name}.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")
    return name


def _too_slow(signum: int, frame: object) -> None:
    raise TooSlow


if __name__ == "__main__":
    raise SystemExit(main())
