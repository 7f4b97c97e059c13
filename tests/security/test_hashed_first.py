"""What is pinned by its hash is hashed before anything parses it: another file of that name reaches no parser."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.records import Artifact
from stages.artifacts import load_npy
from stages.checkpoints import BadCheckpoint, checkpoint_of, read_tensors, verified_path
from stages.ctc_models import read_head
from stages.hf_tokenizer import load_hf_tokenizer
from stages.pitch_vqvae import VqvaePitchConfig
from stages.quantisers import QuantiserConfig
from stages.tokenizer import load_sentencepiece

WRONG = "0" * 64
GARBAGE = b"no parser makes anything of this"


class Trap:
    """Unpickling it makes a file: the sign that a pickle was run."""

    def __init__(self, sign: Path) -> None:
        self._sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._sign,))


def quantiser(kind: str = "kmeans") -> Callable[[Artifact], Any]:
    return lambda artifact: QuantiserConfig(kind=kind, codebook=artifact, clusters=4).load()  # type: ignore[arg-type]


FILES: dict[str, tuple[str, Callable[[Artifact], Any]]] = {
    "k-means in .npy": ("c.npy", quantiser()),
    "k-means in .pt": ("c.pt", quantiser()),
    "k-means in safetensors": ("c.safetensors", quantiser()),
    "k-means in joblib": ("c.bin", quantiser()),
    "linear quantiser": ("c.pt", quantiser("linear")),
    "codebook of a fit": ("c.npy", lambda artifact: load_npy(artifact, 2, np.float32)),
    "SentencePiece": ("t.model", load_sentencepiece),
    "tokenizers": ("tokenizer.json", load_hf_tokenizer),
    "bundle of torchaudio": ("w.pt", lambda artifact: read_head(artifact, "WAV2VEC2_ASR_BASE_960H")),
}
FOLDERS: dict[str, Callable[[Artifact], Any]] = {
    "CTC model": lambda artifact: read_head(artifact, "huggingface"),
    "pitch VQ-VAE": lambda artifact: VqvaePitchConfig(checkpoint=artifact, clusters=64).setup(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_hash_is_not_parsed(tmp_path: Path, name: str) -> None:
    file, load = FILES[name]
    (tmp_path / file).write_bytes(GARBAGE)
    with pytest.raises(ValueError, match=f"sha256.*{WRONG}"):
        load(Artifact(path=str(tmp_path / file), sha256=WRONG))
    # The control: with the right hash, the parser is reached and complains of the content.
    with pytest.raises(ValueError) as told:  # noqa: PT011
        load(checkpoint_of(str(tmp_path / file)))
    assert "sha256" not in str(told.value).split(";")[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_hash_is_not_parsed(tmp_path: Path, name: str) -> None:
    for file in ("config.json", "config.yaml", "vocab.json", "model.pt", "model.safetensors"):
        (tmp_path / file).write_bytes(GARBAGE)
    with pytest.raises(ValueError, match=f"sha256.*{WRONG}"):
        FOLDERS[name](Artifact(path=str(tmp_path), sha256=WRONG))


@pytest.mark.parametrize("suffix", ["bin", "pt", "npy", "safetensors"])
def test_a_pickle_of_another_hash_is_never_run(tmp_path: Path, suffix: str) -> None:
    path, sign = tmp_path / f"c.{suffix}", tmp_path / "run"
    path.write_bytes(pickle.dumps(Trap(sign)))
    with pytest.raises(BadCheckpoint):
        quantiser()(Artifact(path=str(path), sha256=WRONG))
    assert not sign.exists()


@pytest.mark.parametrize("suffix", ["bin", "pt", "npy", "safetensors"])
def test_a_pickle_of_the_right_hash_is_not_run_either(tmp_path: Path, suffix: str) -> None:
    path, sign = tmp_path / f"c.{suffix}", tmp_path / "run"
    path.write_bytes(pickle.dumps(Trap(sign)))
    with pytest.raises(BadCheckpoint):
        quantiser()(checkpoint_of(str(path)))
    assert not sign.exists()


def test_the_trap_would_show(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "run")))
    assert (tmp_path / "run").exists()


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    out, sign = io.BytesIO(), tmp_path / "run"
    np.save(out, np.array([[Trap(sign)]], dtype=object), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(out.getvalue())
    with pytest.raises(BadCheckpoint):
        quantiser()(checkpoint_of(str(tmp_path / "c.npy")))
    assert not sign.exists()


def test_weights_are_read_after_their_hash_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    parsed: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *given, **_: parsed.append(given) or {})
    (tmp_path / "model.pt").write_bytes(GARBAGE)
    with pytest.raises(BadCheckpoint, match="sha256"):
        read_tensors(verified_path(Artifact(path=str(tmp_path / "model.pt"), sha256=WRONG)))
    assert parsed == []
    read_tensors(verified_path(checkpoint_of(str(tmp_path / "model.pt"))))
    assert len(parsed) == 1
