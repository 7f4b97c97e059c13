"""Other loaders open our shards as they are.

`make readers` installs Energon and `datasets` apart, because they contradict what the main environment pins; elsewhere
their tests are skipped.
"""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bake import BakeConfig
from pipeline.dataset import Dataset
from pipeline.energon import write_energon_files
from pipeline.reader import open_reader
from schemas.sequence import SequenceSection
from schemas.unit_record import UnitRecord
from tests.bake_builders import bake_here
from tests.sequence_builders import corpus, write_dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WITHOUT_US = (
    "import runpy, sys;"
    "sys.modules.update(dict.fromkeys(('schemas', 'stages', 'pipeline', 'jobs')));"
    "sys.argv = sys.argv[1:];"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""A module that is None in sys.modules cannot be imported."""
APART = "{} is not installed here: run `make readers`"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    # A FLAC member that nobody can decode: loaders must get by without it.
    records = [replace(record, flac=b"no audio") for record in corpus(6, utterances=4)]
    root = write_dataset(tmp_path_factory.mktemp("data") / "d", [records[:8], [], records[8:]])
    one = Dataset.open(str(root))
    write_energon_files(str(root), {split: one.commit(split) for split in range(one.num_splits)})
    return one


def run_example(name: str, dataset: Dataset, tmp_path: Path, **environment: str) -> list[str]:
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(EXAMPLES / name), dataset.root]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def shown(record: UnitRecord) -> list[str]:
    units = record.streams["hubert"]
    first = f"{record.key} {len(units)} units: {' '.join(map(str, units[:8]))}"
    return [first, *(f"  {word.start} {word.end} {word.text}" for word in record.words)]


def first_records(dataset: Dataset) -> list[str]:
    return [line for record in list(dataset.records(0))[:3] for line in shown(record)]


def test_plain_webdataset_reads_units_and_words_without_our_code(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    assert run_example("read_with_webdataset.py", dataset, tmp_path) == first_records(dataset)


def test_the_code_in_the_docs_reads_baked_blocks(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    sequence = SequenceSection(context=64)
    bake_here(BakeConfig(dataset=dataset.root, sequence=sequence, seed=0, epochs=1, streams=1), tmp_path / "baked")
    (code,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "docs" / "reading.md").read_text(), re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text(f"{code}    print(ids.tolist(), modality.tolist(), document.tolist())\n")
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    wanted = []
    for block in open_reader(dataset, sequence, seed=0, epochs=1):
        used = block["document_ids"] >= 0
        wanted.append(" ".join(str(block[k][used].tolist()) for k in ("input_ids", "modality", "document_ids")))
    assert done.stdout.splitlines() == wanted


def test_the_blocked_packages_are_really_blocked(dataset: Dataset, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import schemas.clock")
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(script), dataset.root]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_energon_gives_every_record_once_without_a_prepare_step(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon", reason=APART.format("megatron.energon"))
    before = sorted(path for path in Path(dataset.root).rglob("*"))
    lines = [line for line in run_example("read_with_energon.py", dataset, tmp_path) if line.startswith("(")]
    keys = sorted(key for line in lines for key in line.rpartition(")")[2].split())
    assert keys == sorted(record.key for split in (0, 2) for record in dataset.records(split))
    assert sorted(path for path in Path(dataset.root).rglob("*")) == before, "it wrote no index of its own"


def test_energons_own_prepare_step_finds_what_we_wrote(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon", reason=APART.format("megatron.energon"))
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    shards = ["shards/shard-000000.tar", "shards/shard-000002.tar"]
    (tmp_path / "shards").mkdir()
    for shard in shards:
        shutil.copy(Path(dataset.root) / shard, tmp_path / shard)
    WebdatasetPreparator.prepare_dataset(tmp_path, shards, split_parts_ratio=[("train", 1.0)], workers=1)
    for shard in shards:
        assert filecmp.cmp(f"{tmp_path}/{shard}.idx", f"{dataset.root}/{shard}.idx", shallow=False)
    ours, theirs = (json.loads((root / ".nv-meta" / ".info.json").read_text())["shard_counts"]
                    for root in (Path(dataset.root), tmp_path))  # fmt: skip
    assert ours == theirs


def test_hugging_face_datasets_streams_the_shards(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason=APART.format("datasets"))
    lines = run_example("read_with_datasets.py", dataset, tmp_path, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    records = [record for split in range(3) for record in dataset.records(split)]
    seconds = sum(record.num_samples for record in records) / 16_000
    assert lines == [*first_records(dataset), f"{len(records)} records of {seconds} s"]
