"""A build of 40 cheap splits that a storm may hit: python -m tests.faults.build ROOT ENGINE STALL_SECONDS [OPTION]."""

import os
import sys
from pathlib import Path

from pipeline.commit import CommitConflict
from pipeline.drive import EngineSettings, RunFailed, drive
from pipeline.engines import EngineName
from pipeline.folder_lock import FolderInUse
from tests.poison import PoisonConfig, job_for

SPLITS = 40
RECORDS = 4
"""In a split."""
RECORD_SECONDS = 0.05
RAISES = ("u017", "u101")
EXIT_FAILED = 1
EXIT_IN_USE = 3
EXIT_CONFLICT = 4


def main(root: str, engine: EngineName, stall_seconds: str, *options: str) -> int:
    """Build into a folder with two workers; return the exit code."""
    poison = PoisonConfig(seconds=RECORD_SECONDS, diary=os.environ["FAULTS_DIARY"], raises=RAISES)
    job, plan = job_for(Path(root), poison, count=SPLITS * RECORDS, strikes=3, record_seconds=2.0)
    settings = EngineSettings(engine=engine, workers=2, stall_seconds=float(stall_seconds), options=options)
    try:
        records = drive(job, plan, settings, lambda *_: None)
    except (RunFailed, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except FolderInUse as error:
        print(error, file=sys.stderr)
        return EXIT_IN_USE
    except CommitConflict as error:
        print(error, file=sys.stderr)
        return EXIT_CONFLICT
    inputs = sum(record["inputs"] for record in records.values())
    balanced = inputs == sum(record["records"] + record["rejects"] for record in records.values())
    return 0 if len(records) == SPLITS and inputs == SPLITS * RECORDS and balanced else 5


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
