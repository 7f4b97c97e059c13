"""Fuzz a target by coverage: `PYTHON -m tests.fuzz.guided alignment -max_total_time=600 CORPUS_FOLDER`.

Needs `atheris`, which the project does not install. It pays for what is written in Python: manifests,
alignment files, recipes; libsndfile and FFmpeg are not instrumented. The first byte of an input picks its kind.
"""

import sys
from pathlib import Path


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["stages", "pipeline", "schemas"]):
        from tests.fuzz import targets

        name = sys.argv.pop(1)
        target = targets.load(name)

    def one(data: bytes) -> None:
        if data:
            target.check(target.KINDS[data[0] % len(target.KINDS)], data[1:])

    for folder in sys.argv[1:]:
        if not folder.startswith("-"):
            _sow(name, Path(folder))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def _sow(name: str, folder: Path) -> None:
    """Write the valid files into the corpus, if they are not there."""
    from tests.fuzz import seeds_text, targets

    known = {
        "alignment": seeds_text.alignment_seeds,
        "manifest": seeds_text.manifest_seeds,
        "recipe": lambda: {"yaml": (seeds_text.RECIPE,)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, seeds in known[name]().items():
        for index, seed in enumerate(seeds):
            (folder / f"{kind}-{index}").write_bytes(bytes([targets.load(name).KINDS.index(kind)]) + seed)


if __name__ == "__main__":
    main()
