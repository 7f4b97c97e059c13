"""Make the bad inputs: `python -m tests.zoo.make_zoo OUT`.

Writes OUT/manifest.jsonl, in which every row but the good ones between them is wrong in one way, OUT/expected.jsonl
with what must become of each line, and the manifests, recipes and shards that are tried one by one. The files depend
on nothing but the installed codecs; what is large is sparse.
"""

import json
import shutil
import sys
from pathlib import Path

from tests.zoo import audio_containers, audio_headers, field_rows, manifest_cases, other_cases, path_rows, text_rows
from tests.zoo.book import GOOD, RECORD, Case, Zoo

GOOD_EVERY = 25


def make_zoo(out: Path) -> Zoo:
    """Write everything into a new folder and return the cases."""
    out.mkdir(parents=True)
    shutil.copyfile(GOOD, out / "good.flac")
    zoo = Zoo(out=out)
    for add in (
        audio_containers.add_containers,
        audio_headers.add_lies,
        audio_headers.add_samples,
        audio_headers.add_bombs,
        audio_headers.add_no_audio,
        path_rows.add_places,
        text_rows.add_texts,
        field_rows.add_ids,
        field_rows.add_numbers,
        field_rows.add_lines,
        manifest_cases.add_manifests,
        other_cases.add_recipes,
        other_cases.add_shards,
    ):
        add(zoo)
    zoo.rows = with_good_rows(zoo.rows)
    (out / "manifest.jsonl").write_bytes(b"".join(case.line + b"\n" for case in zoo.rows))
    rows = [{"line": i, "name": c.name, "group": c.group, "expect": c.expect} for i, c in enumerate(zoo.rows, 1)]
    (out / "expected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return zoo


def with_good_rows(rows: list[Case]) -> list[Case]:
    """Put the sentences of the good file between the rows, each once in its own recording."""
    sentences = [
        json.loads(line) for line in (GOOD.parent / "manifest.jsonl").read_bytes().splitlines() if b'"good-0' in line
    ]
    found: list[Case] = []
    for index, row in enumerate(rows):
        if index % GOOD_EVERY == 0:
            number = index // GOOD_EVERY
            value = {**sentences[number % len(sentences)], "id": f"good-{number}", "recording": f"good {number}"}
            found.append(Case(name=f"good-{number}", group="good", expect=(RECORD,), line=json.dumps(value).encode()))
        found.append(row)
    return found


def clean_manifest(zoo: Zoo) -> bytes:
    """Return the manifest with only the good rows, each in its line: what the others say is left out."""
    return b"".join((case.line if case.group == "good" else b"{}") + b"\n" for case in zoo.rows)


if __name__ == "__main__":
    made = make_zoo(Path(sys.argv[1]))
    parts = {"rows": made.rows, "manifests": made.manifests, "recipes": made.recipes, "shards": made.shards}
    print(", ".join(f"{len(cases)} {name}" for name, cases in parts.items()))
