"""Audit what is installed against constraints.txt: pins, licences, and vulnerabilities where their data is at hand.

    python scripts/audit_dependencies.py [--constraints FILE] [--advisories FILE] [--licences]

Nothing is fetched. Advisories are a file in the format of OSV (one JSON object per line, from https://osv.dev), so that
the audit works without a network; without one the script says that it did not look. Exit code 1: something that is
installed is not pinned, is another version than its pin, or has an advisory. Licences are told and not judged.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple

PERMISSIVE = re.compile(
    r"\b(mit|mit-cmu|bsd|0bsd|apache|asl|isc|psf|python software foundation|hpnd|zlib|unlicense|public domain|cc0|zpl|"
    r"cnri|blueoak|boost|bsl-1\.0|ncsa)",
    re.IGNORECASE,
)
RESTRICTIVE = re.compile(
    r"\b(a?gpl|lgpl|gnu|mpl|mozilla|eupl|epl|eclipse|cddl|cc-by-nc|non-?commercial|proprietary|nvidia|sspl|busl)",
    re.IGNORECASE,
)
TOOLS = frozenset({"pip", "setuptools", "wheel"})
"""What makes an environment, rather than what is put into it."""
OURS = "interloom"


class Licence(NamedTuple):
    """What a distribution says of its licence; `kind` is `permissive`, `restrictive` or `unclear`."""

    text: str
    kind: str


def normal(name: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Return version by name. Raises ValueError for a line that pins nothing."""
    pins = {}
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.partition("#")[0].partition(";")[0].strip()
        if not plain:
            continue
        found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)", plain)
        if found is None:
            raise ValueError(f"line {number} is no pin NAME==VERSION: {plain!r}")
        pins[normal(found[1])] = found[2]
    return pins


def unpinned(installed: dict[str, str], pins: dict[str, str]) -> list[str]:
    """Return what is installed and has no pin, or another version than its pin."""
    found = []
    for name, version in sorted(installed.items()):
        if name not in pins and name not in TOOLS:
            found.append(f"{name}=={version} is installed and has no pin")
        elif name in pins and pins[name] != version.partition("+")[0] and pins[name] != version:
            found.append(f"{name}=={version} is installed, the pin says {pins[name]}")
    return found


def licence_of(metadata: Any) -> Licence:
    """Return the licence: SPDX expression, else classifiers, else the first line of the free text."""
    expression = metadata.get("License-Expression") or ""
    classes = [
        c.rpartition("::")[2].strip() for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    free = (metadata.get("License") or "").strip().split("\n")[0][:80]
    told = expression or ", ".join(c for c in classes if c != "OSI Approved") or free
    if RESTRICTIVE.search(told):
        # "MIT OR GPL" lets us choose.
        kind = "permissive" if re.search(r"\bOR\b", expression) and PERMISSIVE.search(told) else "restrictive"
    else:
        kind = "permissive" if PERMISSIVE.search(told) else "unclear"
    return Licence(told or "not stated", kind)


def vulnerable(installed: dict[str, str], advisories: Iterable[dict[str, Any]]) -> list[str]:
    """Return the advisories that name an installed version."""
    found = []
    for advisory in advisories:
        for affected in advisory.get("affected") or []:
            package = affected.get("package") or {}
            name = normal(str(package.get("name", "")))
            if package.get("ecosystem") != "PyPI" or name not in installed:
                continue
            if installed[name] in (affected.get("versions") or []) or _in_ranges(installed[name], affected):
                found.append(f"{name}=={installed[name]}: {advisory.get('id')} {advisory.get('summary', '')}".rstrip())
    return sorted(set(found))


def _in_ranges(version: str, affected: dict[str, Any]) -> bool:
    """Return whether a version lies in one of OSV's ranges, as its specification evaluates them."""
    for span in affected.get("ranges") or []:
        if span.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for event in sorted(span.get("events") or [], key=lambda e: _order(str(next(iter(e.values()))))):
            (kind, value), at = next(iter(event.items())), _order(version)
            if kind == "introduced":
                inside = inside or at >= _order(str(value))
            elif kind == "fixed":
                inside = inside and at < _order(str(value))
            elif kind == "last_affected":
                inside = inside and at <= _order(str(value))
        if inside:
            return True
    return False


def _order(version: str) -> Any:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _installed() -> dict[str, Distribution]:
    found = {normal(d.metadata["Name"]): d for d in distributions() if d.metadata["Name"]}
    found.pop(OURS, None)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the audit; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--constraints", type=Path, default=root / "constraints.txt")
    parser.add_argument("--advisories", type=Path, default=None, metavar="FILE", help="OSV records, one per line")
    parser.add_argument("--licences", action="store_true", help="print the licence of every distribution")
    given = parser.parse_args(arguments)
    pins, found = read_pins(given.constraints.read_text(encoding="utf-8")), _installed()
    versions = {name: d.version for name, d in found.items()}
    licences = {name: licence_of(d.metadata) for name, d in sorted(found.items())}
    print(f"{len(versions)} distributions are installed, {len(pins)} pinned in {given.constraints.name}")
    problems = unpinned(versions, pins)
    for name, licence in licences.items():
        if given.licences or licence.kind != "permissive":
            print(f"licence, {licence.kind}: {name}=={versions[name]}: {licence.text}")
    if given.advisories is None:
        print("vulnerabilities: not looked for; give --advisories")
    else:
        lines = given.advisories.read_text(encoding="utf-8").splitlines()
        problems += vulnerable(versions, [json.loads(line) for line in lines if line.strip()])
        print(f"vulnerabilities: looked for in {len(lines)} advisories")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
