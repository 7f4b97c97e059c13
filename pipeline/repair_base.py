"""The folder that relative audio paths start from, where a plan is made again: nothing but `plan.json` tells it."""

import os
from collections.abc import Sequence
from dataclasses import replace

from pipeline.findings import Finding
from pipeline.manifest import manifest_base
from pipeline.plan import read_plan
from pipeline.repair_checks import RepairFailed, require_sources
from pipeline.split_files import found_by
from pipeline.storage import is_remote, join, publish_json, read_json
from pipeline.verify_plan import PLAN
from schemas.urls import public_url


def known_base(root: str) -> str | None:
    """Return what `plan.json` says, as far as it can be read."""
    said = found_by(read_json, join(root, PLAN))
    base = said.get("base") if isinstance(said, dict) else None
    return base if isinstance(base, str) else None


def base_for(root: str, audio_root: str | None) -> str | None:
    """Return the base of a plan that is made again; None where only the manifest's folder is left."""
    known = known_base(root)
    return audio_root if known is None or moves(root, audio_root) else known


def moves(root: str, audio_root: str | None) -> bool:
    """Tell whether another folder was given than `plan.json` says."""
    known = known_base(root)
    return known is not None and audio_root is not None and not _is_same(known, audio_root)


def set_base(root: str, findings: Sequence[Finding], audio_root: str | None) -> None:
    """Write another base into a sound `plan.json`, where one was given and the audio is there.

    Looked for is the audio of the splits with findings, without any of all splits.

    Raises:
        RepairFailed: if it is not there; then nothing has been changed.
    """
    plan = read_plan(join(root, "plan")) if moves(root, audio_root) else None
    if plan is None or audio_root is None:
        return
    bad = sorted({finding.split for finding in findings if finding.split is not None})
    try:
        require_sources(root, replace(plan, base=audio_root), bad if findings else range(len(plan.inputs)))
    except RepairFailed as error:
        raise RepairFailed(f"{error}; plan.json, which was left as it is, says {public_url(plan.base)}") from None
    publish_json({**read_json(join(root, PLAN)), "base": audio_root}, join(root, PLAN))


def told_base(root: str, manifest: str | None, audio_root: str | None) -> str:
    """Return a line about the base that is used; "" where nothing was given that bears on it."""
    known = known_base(root)
    given = audio_root if audio_root is not None else None if manifest is None else manifest_base(manifest)
    if given is None or (known is not None and _is_same(known, given)):
        return ""
    shown = public_url(given)
    if known is None:
        return f"relative audio paths start from {shown} now; what plan.json said of it is lost"
    if audio_root is not None:
        return f"relative audio paths start from {shown} now, not from {public_url(known)}"
    return f"relative audio paths start from {public_url(known)}, as plan.json says; --audio-root {shown} changes that"


def _is_same(one: str, other: str) -> bool:
    if is_remote(one) or is_remote(other):
        return one.rstrip("/") == other.rstrip("/")
    return os.path.realpath(one) == os.path.realpath(other)
