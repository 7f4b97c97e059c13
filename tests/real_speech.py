"""Real speech, which is not part of the repository: a folder that the environment names, with a list of its clips.

INTERLOOM_SPEECH is a folder of WAV files with a MANIFEST.tsv; its columns are told in docs/architecture.md.
"""

import os
from pathlib import Path

import pytest

NAMED = os.environ.get("INTERLOOM_SPEECH")
SPEECH = Path(NAMED or os.devnull).resolve()
if NAMED and not (SPEECH / "MANIFEST.tsv").is_file():
    raise FileNotFoundError(f"INTERLOOM_SPEECH={NAMED} has no MANIFEST.tsv")


def needs_speech(*clips: str) -> pytest.MarkDecorator:
    """Skip a test where there is no real speech, or not these clips, which it knows by name."""
    if not NAMED:
        return pytest.mark.skipif(True, reason="INTERLOOM_SPEECH names no folder of real speech")
    missing = [clip for clip in clips if not (SPEECH / clip).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not in INTERLOOM_SPEECH: {', '.join(missing)}")
