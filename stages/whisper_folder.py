"""Whisper in CTranslate2's layout: what can be known of a folder before the model is built.

The layout of `model.bin` (CTranslate2 4, `python/ctranslate2/specs/model_spec.py`): version, name, revision, then each
variable with name, shape, type and bytes, then aliases; little-endian, strings with their length and a final NUL.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from schemas.clock import SAMPLE_RATE
from stages.checkpoints import BadCheckpoint, read_json_file

CONVERT = "convert it with: ct2-transformers-converter --model IN --output_dir OUT --copy_files tokenizer.json"
MULTILINGUAL_TOKEN = ""
"""The empty token: CTranslate2 4.8 takes a model for multilingual where its vocabulary has one, as Whisper's have whose
names do not end in `.en`."""
MEL_BINS = 80
OLDEST_LAYOUT = 4
"""Of `model.bin`; older ones store the size of an element instead of its type."""


class WhisperFacts(NamedTuple):
    """What a folder says of its model.

    Attributes:
        vocabulary: number of tokens.
        mel_bins: of the spectrogram that it reads.
        languages: codes that its tokenizer has; only `en` where the model is not multilingual.
    """

    vocabulary: int
    mel_bins: int
    languages: frozenset[str]


def whisper_facts(folder: Path) -> WhisperFacts:
    """Read a folder's configuration and the index of its weights; costs a few milliseconds for any size.

    Raises:
        BadCheckpoint: if a file is missing or truncated, or the folder holds another kind of model.
    """
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder} is no folder; {CONVERT}")
    if not (folder / "model.bin").is_file():
        raise BadCheckpoint(f"{folder} holds no model.bin, so it is no CTranslate2 model; {CONVERT}")
    shapes = _shapes(folder / "model.bin")
    embeddings, conv = shapes.get("decoder/embeddings/weight"), shapes.get("encoder/conv1/weight")
    if embeddings is None or conv is None or len(conv) != 3:
        raise BadCheckpoint(f"{folder / 'model.bin'} lacks a Whisper's embeddings or first convolution; {CONVERT}")
    read_json_file(folder / "config.json")
    words = _vocabulary(folder)
    if len(words) != embeddings[0]:
        raise BadCheckpoint(f"{folder} has {len(words)} tokens in its vocabulary and {embeddings[0]} in its weights")
    _check_preprocessor(folder, conv[1])
    tokens = _tokens(folder)
    if tokens.get("<|startoftranscript|>") != _index(words, "<|startoftranscript|>"):
        raise BadCheckpoint(f"{folder / 'tokenizer.json'} is that of another model: its token ids differ")
    codes = {t[2:-2] for t in tokens if t.startswith("<|") and t.endswith("|>") and t[2:-2].isalpha() and len(t) < 8}
    return WhisperFacts(len(words), conv[1], frozenset(codes if MULTILINGUAL_TOKEN in words else {"en"}))


def _index(words: list[str], token: str) -> int | None:
    return words.index(token) if token in words else None


def _vocabulary(folder: Path) -> list[str]:
    for name in ("vocabulary.json", "vocabulary.txt"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            words = json.loads(text) if name.endswith(".json") else text.split("\n")[:-1]
        except (ValueError, RecursionError):
            raise BadCheckpoint(f"{path} is damaged; {CONVERT}") from None
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return words
        raise BadCheckpoint(f"{path} must hold a list of tokens; {CONVERT}")
    raise BadCheckpoint(f"{folder} holds neither vocabulary.json nor vocabulary.txt; {CONVERT}")


def _tokens(folder: Path) -> dict[str, int]:
    """Return the special tokens of `tokenizer.json`, without which faster-whisper would download one."""
    value = read_json_file(folder / "tokenizer.json")
    added = value.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(item, dict) for item in added):
        raise BadCheckpoint(f"{folder / 'tokenizer.json'} lists no added_tokens, as Whisper's tokenizer does")
    return {str(item.get("content")): int(item.get("id", -1)) for item in added}


def _check_preprocessor(folder: Path, mel_bins: int) -> None:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        if mel_bins != MEL_BINS:
            raise BadCheckpoint(f"{path} is missing: the model reads {mel_bins} mel bins, and {MEL_BINS} are assumed")
        return
    config = read_json_file(path)
    if config.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise BadCheckpoint(f"{path}: sampling_rate is {config['sampling_rate']!r}, it must be {SAMPLE_RATE}")
    if config.get("feature_size", MEL_BINS) != mel_bins:
        raise BadCheckpoint(f"{path}: feature_size is {config.get('feature_size')!r}, the model reads {mel_bins}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the variables of `model.bin`, skipping over their bytes."""
    with open(path, "rb") as file:
        try:
            (version,) = _numbers(file, "<I")
            name = _string(file)
            if not OLDEST_LAYOUT <= version <= 99 or name != "WhisperSpec":
                raise BadCheckpoint(f"{path} holds no Whisper (version {version}, {name[:40]!r}); {CONVERT}")
            _numbers(file, "<I")  # revision
            return dict(_variables(file))
        except (struct.error, UnicodeDecodeError):
            raise BadCheckpoint(f"{path} is truncated or damaged; copy or convert it again") from None


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    (count,) = _numbers(file, "<I")
    for _ in range(count):
        name = _string(file)
        (rank,) = _numbers(file, "<B")
        shape = _numbers(file, f"<{rank}I")
        _, num_bytes = _numbers(file, "<BI")
        file.seek(num_bytes, 1)  # behind the end of a truncated file nothing can be read
        yield name, shape
    (aliases,) = _numbers(file, "<I")
    for _ in range(2 * aliases):
        _string(file)


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _string(file: BinaryIO) -> str:
    (length,) = _numbers(file, "<H")
    data = file.read(length)
    if len(data) < length or not data.endswith(b"\0"):
        raise struct.error("a name breaks off")
    return data[:-1].decode()
