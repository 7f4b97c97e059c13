"""What data names cannot lead out of where it belongs. A manifest may name any audio: docs/security.md says so."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import repair
from pipeline.build import RunSettings
from pipeline.dataset import BadDataset, Dataset, samples
from pipeline.drive import EngineSettings
from pipeline.fit import load_artifacts
from pipeline.inside import is_inside
from pipeline.manifest import record_key, reject_key
from pipeline.tar_samples import tar_samples
from stages.alignment_files.folder import alignment_files, source_of
from stages.audio_sources import AudioProblem, open_source
from tests import audit_builders as builders

OUTSIDE = (
    "../secret",
    "artifacts/../../secret",
    "artifacts/x/../../../secret",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "",
    "a\0b",
    "a\\..\\b",
    "s3://bucket/key",
    "simplecache::s3://bucket/key",
    "file:///etc/passwd",
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Names


@given(st.text(max_size=200) | st.text(alphabet="a./\\-_~ :", max_size=90))
def test_a_key_is_one_plain_file_name_whatever_the_id(row_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,90}", record_key(row_id))
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,90}~7", reject_key(row_id, 7))


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_lead_out_are_told(path: str) -> None:
    assert not is_inside(path)


@given(st.text(alphabet="a./\\\0:.", max_size=12))
def test_what_counts_as_inside_never_leaves_the_folder(path: str) -> None:
    if is_inside(path):
        assert os.path.normpath(f"/data/set/{path}").startswith("/data/set")


@pytest.mark.parametrize("path", ["artifacts/tokenizer.model", "a/b/c.npy", "..a/b", "a..b"])
def test_plain_relative_paths_are_inside(path: str) -> None:
    assert is_inside(path)


@pytest.mark.parametrize("value", [None, 7, ["artifacts/x"], {}])
def test_what_is_no_text_is_no_path(value: object) -> None:
    assert not is_inside(value)


# Datasets of others


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(builders.tokenizer())
    return builders.write_dataset(tmp_path / "data", [[builders.record("a")], [builders.record("b")]]).root


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_dataset_names_no_artifact_outside_itself(dataset: Path, path: str) -> None:
    info = json.loads((dataset / "dataset.json").read_text())
    info["artifacts"]["tokenizer"]["path"] = path
    (dataset / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(BadDataset, match="outside"):
        Dataset.open(str(dataset)).artifact("tokenizer")


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_list_of_artifacts_that_names_others_counts_as_damaged(dataset: Path, path: str) -> None:
    listing = {
        "artifacts": {"tokenizer": {"path": "artifacts/tokenizer.model", "sha256": "0" * 64}},
        "fingerprint": "f",
        "format": "interloom-artifacts/1",
    }
    (dataset / "artifacts" / "artifacts.json").write_text(json.dumps(listing))
    assert load_artifacts(str(dataset)) is not None
    listing["artifacts"]["tokenizer"]["path"] = path
    (dataset / "artifacts" / "artifacts.json").write_text(json.dumps(listing))
    assert load_artifacts(str(dataset)) is None


def test_repair_moves_nothing_that_lies_outside(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, there = dataset.parent / "secret", list[bool]()
    info = json.loads((dataset / "dataset.json").read_text())
    info["artifacts"]["units"] = {"path": "artifacts/../../secret", "sha256": "0" * 64}
    (dataset / "dataset.json").write_text(json.dumps(info))
    monkeypatch.setattr(repair, "run_fit", lambda *_: there.append(victim.exists()) or {})
    settings = RunSettings(out=str(dataset), engine=EngineSettings())
    repair._mend_artifacts(None, None, {"artifacts/tokenizer.model"}, settings, None)  # type: ignore[arg-type]
    assert there == [True]
    assert not (dataset / "artifacts" / "tokenizer.model").exists()  # what lies inside was set aside


def hostile_tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0 if kind != tarfile.REGTYPE else 4
        tar.addfile(info, io.BytesIO(b"text") if info.size else None)
    return out.getvalue()


@pytest.mark.parametrize("name", ["../../../escaped.json", "/tmp/escaped.json", "a/b.json", "x.json/../y.json"])
def test_members_with_folders_in_their_names_are_refused(name: str) -> None:
    with pytest.raises(BadDataset, match="plain"):
        list(tar_samples(io.BytesIO(hostile_tar(name)), "x.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_members_that_are_no_files_are_refused_or_left_out(tmp_path: Path, kind: bytes) -> None:
    data = hostile_tar("a.json", kind)
    with pytest.raises(BadDataset, match="plain"):
        list(tar_samples(io.BytesIO(data), "x.tar"))
    (tmp_path / "x.tar").write_bytes(data)
    assert list(samples(str(tmp_path / "x.tar"))) == []


def test_reading_a_hostile_shard_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    shard = tmp_path / "deep" / "folder" / "x.tar"
    shard.write_bytes(hostile_tar("../escaped.json"))
    monkeypatch.chdir(shard.parent)
    before = tree(tmp_path)
    with pytest.raises(BadDataset, match="plain"):
        list(samples(str(shard)))
    assert tree(tmp_path) == before


# Audio and alignments


@pytest.mark.parametrize(
    "location",
    [
        "simplecache::s3://bucket/a.wav",
        "zip://a.wav::/etc/x.zip",
        "local:///etc/passwd",
        "github://org:repo@/a.wav",
        "ssh://host/a.wav",
        "reference://x",
        "jupyter://x",
        "concat:a|b://",
    ],
)
def test_no_url_of_another_kind_is_opened(location: str) -> None:
    with pytest.raises(AudioProblem):
        open_source(location)


def test_devices_fifos_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "to-zero.wav").symlink_to("/dev/zero")
    for path in ("/dev/zero", "/dev/stdin", str(tmp_path / "fifo.wav"), str(tmp_path), str(tmp_path / "to-zero.wav")):
        with pytest.raises(AudioProblem):
            open_source(path)


def test_alignments_are_read_below_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "secret.ctm").write_text("outside 1 0.0 1.0 word\n")
    inner = tmp_path / "alignments"
    (inner / "sub").mkdir(parents=True)
    (inner / "sub" / "mine.ctm").write_text("mine 1 0.0 1.0 word\n")
    (inner / "linked.ctm").symlink_to(tmp_path / "secret.ctm")
    (inner / "up.ctm").symlink_to("../secret.ctm")
    (inner / "out").symlink_to(tmp_path)
    (inner / "device.ctm").symlink_to("/dev/zero")
    os.mkfifo(inner / "fifo.ctm")
    assert alignment_files(inner) == ["sub/mine.ctm"]
    assert source_of(str(inner), "ctm").files == ("sub/mine.ctm",)
