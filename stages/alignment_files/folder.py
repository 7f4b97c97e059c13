"""Where alignment files lie: the files of a folder, their format, and the hash that pins them."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from schemas.canonical import canonical_json, sha256_hex
from schemas.path_errors import OF_THE_PATH
from schemas.records import Artifact
from stages.alignment_files.entry import MAX_FILE, BadAlignment, decode_json
from stages.alignment_files.textgrid import looks_like_mfa
from stages.alignment_files.whisper_json import looks_like_whisper

FORMATS = ("auto", "ctm", "textgrid", "librispeech", "whisperx", "whisper-timestamped", "lhotse")
SUFFIXES = {
    "ctm": (".ctm", ".ctm.gz"),
    "textgrid": (".textgrid",),
    "librispeech": (".alignment.txt", ".alignment.txt.gz"),
    "lhotse": (".jsonl", ".jsonl.gz"),
}
_TABLES = (".json", ".csv")
_BLOCK = 1 << 22
_TRIED = 20


class Source(NamedTuple):
    """Alignment files of one format.

    Attributes:
        root: the folder that the files are relative to.
        files: relative paths with `/`, sorted; never outside the folder.
        format: one of FORMATS but `auto`.
    """

    root: Path
    files: tuple[str, ...]
    format: str


def alignment_source(path: str, wanted: str = "") -> Artifact:
    """Return the alignment files that lie at a path now, hashing them (about 1 s per 1.5 GB; 300,000 small files take
    about a minute from a disk).

    A folder's sha256 is that of the list of its alignment files (relative path, sha256), subfolders included.

    Args:
        path: local file or folder.
        wanted: sha256 that it must have, or "" for any.

    Raises:
        BadAlignment: if it is missing, holds no alignment files, or has another sha256.
    """
    place = Path(path)
    if place.is_dir():
        files = alignment_files(place)
        if not files:
            raise BadAlignment(path, None, "no alignment files below it (TextGrid, CTM, JSON, CSV, alignment.txt)")
        listed = [[_valid(name), _file_sha256(place / name)] for name in files]
        found = sha256_hex(canonical_json(listed).encode())
    else:
        found = _file_sha256(_existing(place))
    if wanted and found != wanted:
        raise BadAlignment(
            path, None, f"sha256 is {found}, but {wanted} was asked for; restore the files, or correct the recipe"
        )
    return Artifact(path=str(path), sha256=found)


def alignment_files(folder: Path) -> list[str]:
    """Return the files below a folder that may hold alignments, by their suffix, as sorted relative paths.

    Hidden files and folders are left out, links to folders are not followed, and links to files only inside the folder.
    """
    root = os.path.realpath(folder)
    suffixes = (*(s for all_ in SUFFIXES.values() for s in all_), *_TABLES)
    found = []
    for place, folders, names in os.walk(root, onerror=_require_of_path):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in names:
            if name[0] != "." and name.lower().endswith(suffixes) and _inside(os.path.join(place, name), root):
                found.append(os.path.relpath(os.path.join(place, name), root).replace(os.sep, "/"))
    return sorted(found)


def source_of(path: str, wanted: str) -> Source:
    """Return the files of a format at a path.

    Raises:
        BadAlignment: if there are none, or `wanted` is `auto` and the format cannot be told.
    """
    place = Path(path)
    if not place.is_dir():
        name = _existing(place).name
        return Source(place.parent, (name,), _file_format(place, name) if wanted == "auto" else wanted)
    files = alignment_files(place)
    kind = _folder_format(place, files) if wanted == "auto" else wanted
    mine = tuple(_of_format(files, kind))
    if not mine:
        raise BadAlignment(path, None, f"no files of format {kind!r} below it")
    return Source(place, mine, kind)


def stem(name: str) -> str:
    """Return a relative path without the suffix that tells its format."""
    for suffix in (*(s for all_ in SUFFIXES.values() for s in all_), *_TABLES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name.rpartition(".")[0] or name


def read_whole(root: Path, name: str) -> bytes:
    """Read a file of at most MAX_FILE bytes. Raises BadAlignment if it is larger."""
    with open(root / name, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise BadAlignment(name, None, f"larger than {MAX_FILE >> 20} MiB")
    return data


def _of_format(files: list[str], kind: str) -> list[str]:
    if kind in ("whisperx", "whisper-timestamped"):
        return [name for name in files if name.lower().endswith(".json")]
    mine = [name for name in files if name.lower().endswith(SUFFIXES[kind])]
    if kind == "textgrid" and not mine:  # the aligner's other outputs
        return [name for name in files if name.lower().endswith(_TABLES)]
    return mine


def _folder_format(place: Path, files: list[str]) -> str:
    kinds = [kind for kind in SUFFIXES if any(name.lower().endswith(SUFFIXES[kind]) for name in files)]
    if len(kinds) > 1:
        raise BadAlignment(str(place), None, f"files of the formats {', '.join(kinds)} below it; set `format`")
    if kinds:
        return kinds[0]
    for name in [name for name in files if name.lower().endswith(_TABLES)][:_TRIED]:
        if kind := _table_format(place, name):
            return kind
    raise BadAlignment(str(place), None, "no files of a known format below it; set `format`")


def _file_format(place: Path, name: str) -> str:
    for kind, suffixes in SUFFIXES.items():
        if name.lower().endswith(suffixes):
            return kind
    kind = _table_format(place.parent, name) if name.lower().endswith(_TABLES) else ""
    if not kind:
        raise BadAlignment(str(place), None, "the format cannot be told from it; set `format`")
    return kind


def _table_format(root: Path, name: str) -> str:
    """Return the format of a JSON or CSV file, or "" where it is none of ours."""
    if name.lower().endswith(".csv"):
        with open(root / name, "rb") as file:
            return "textgrid" if file.read(64).removeprefix(b"\xef\xbb\xbf").startswith(b"Begin,End,Label,") else ""
    try:
        value = decode_json(read_whole(root, name), name)
    except BadAlignment:
        return ""
    return "textgrid" if looks_like_mfa(value) else "whisperx" if looks_like_whisper(value) else ""


def _existing(place: Path) -> Path:
    if not place.exists():
        raise BadAlignment(str(place), None, "missing: correct the path in the recipe")
    if not place.is_file():
        raise BadAlignment(str(place), None, "neither a file nor a folder")
    return place


def _inside(path: str, root: str) -> bool:
    """True for a regular file that lies below the folder, links resolved."""
    real = os.path.realpath(path)
    try:
        return real.startswith(os.path.join(root, "")) and stat.S_ISREG(os.stat(real).st_mode)
    except OSError as error:
        _require_of_path(error)
        return False


def _require_of_path(error: OSError) -> None:
    """Raise an error of the system: a file that it hides would be missed in every record that it aligns."""
    if error.errno not in OF_THE_PATH:
        raise error


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _valid(name: str) -> str:
    """Return a path as text that can be hashed, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
