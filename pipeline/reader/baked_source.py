"""Baked blocks as a source of the reader: each item is a block as it is, drawn and packed by `interloom bake`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.commit import commit_path
from pipeline.dataset import BadDataset
from pipeline.inside import is_inside
from pipeline.reader.baked_blocks import FORMAT, MEMBERS, packed_of
from pipeline.reader.shard_cache import Committed, ShardCache, open_committed
from pipeline.reader.shard_file import ShardFile, committed, damaged
from pipeline.reader.source import BadShard, Packed, Shard
from pipeline.reader.vocabularies import load_tokenizer
from pipeline.storage import is_remote, join, read_bytes, read_json
from schemas.contract import UnitContract
from schemas.descriptions import BakedDescription, what_is_wrong
from schemas.records import Artifact
from schemas.sequence import VocabularySection
from stages.vocabulary import BLOCKS, Vocabulary


class BakedSource:
    """The blocks of all epochs that were baked; one pass over them is that many epochs of the dataset."""

    def __init__(
        self,
        path: str,
        vocabulary: Vocabulary,
        *,
        context: int | None = None,
        cache: ShardCache | None = None,
        verify: bool = False,
    ) -> None:
        """Read `baked.json`.

        Args:
            path: folder or URL that `interloom bake` wrote.
            vocabulary: that the blocks will be trained with.
            context: of the blocks to be made; None: that of the bake.
            cache: where remote shards are kept; None: one of the default size.
            verify: hash every shard as it is opened; remote ones always are.

        Raises:
            BadDataset: if the bake is not finished, or of another format.
            ValueError: if it was made for another vocabulary or a longer context.
        """
        self._root, self._verify = path.rstrip("/"), verify
        self._cache = (cache or ShardCache()) if is_remote(path) else None
        self._info = _baked_info(self._root)
        self._size = int(self._info["vocabulary"]["size"])
        self._context = int(self._info["context"])
        if context is not None and context < self._context:
            raise ValueError(f"{path} holds blocks of {self._context} tokens; context {context} is too short for them")
        mine, theirs = vocabulary.describe(), self._info["vocabulary"]
        differs = [f"{k}: {theirs.get(k)!r} there, {mine[k]!r} here" for k in mine if mine[k] != theirs.get(k)]
        if differs:
            raise ValueError(f"{path} was baked with another vocabulary: {'; '.join(differs)}")
        self._shards: list[tuple[str, int]] = [(name, count) for name, count in self._info["shards"]]

    @property
    def name(self) -> str:
        return self._root

    @property
    def contracts(self) -> dict[str, UnitContract]:
        """Stream slot to unit contract of the dataset that was baked."""
        return {slot: UnitContract.from_json(value) for slot, value in self._info["unit_contracts"].items()}

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.array([count for _, count in self._shards], dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        return {"baked": self._info["fingerprint"], "shards": self._info["shards"]}

    def open(self, shard: int) -> Shard:
        """Open a shard.

        Raises:
            BadShard: if a file of it is missing or is not what its commit record says.
            OSError: if an object store failed.
        """
        path, count = self._path(shard), self._shards[shard][1]
        if self._cache is not None:
            self._cache.take(path)
        commit, (tar, index) = self._committed(shard)
        with open_committed(index, self._cache) as file:
            offsets = file.read()
        with open_committed(tar, self._cache) as file:
            opened = ShardFile.open(path, file, offsets, {**commit, "records": count}, verify=self._verify)
        return _BakedShard(path, opened, self._context, self._size)

    def expect(self, shards: Sequence[int]) -> None:
        """Fetch shards of an object store ahead."""
        if self._cache is not None:
            self._cache.expect([(self._path(n), partial(self._files, n)) for n in shards])

    def _path(self, shard: int) -> str:
        return join(self._root, "shards", self._shards[shard][0])

    def _files(self, shard: int) -> list[Committed]:
        return self._committed(shard)[1]

    def _committed(self, shard: int) -> tuple[dict[str, Any], list[Committed]]:
        """Return the commit record of a shard's stream, and the shard's tar and index."""
        path = self._path(shard)
        stream = int(self._shards[shard][0].split("-")[1])
        commit = read_json(commit_path(self._root, stream))
        if not isinstance(commit, dict) or commit.get("plan") != self._info["fingerprint"]:
            raise BadShard(f"{path} has no commit record of this bake; run the bake again")
        return commit, [committed(commit, path), committed(commit, f"{path}.idx")]


class _BakedShard:
    def __init__(self, path: str, file: ShardFile, context: int, vocabulary_size: int) -> None:
        self._path, self._file, self._context, self._size = path, file, context, vocabulary_size

    def item(self, index: int, epoch: int) -> Packed:
        _, members = self._file.members(index, MEMBERS)
        try:
            return packed_of(members, context=self._context, vocabulary_size=self._size)
        except (ValueError, EOFError) as error:
            raise damaged(self._path, f"block {index}: {error}") from error

    def close(self) -> None:
        self._file.close()


def baked_vocabulary(path: str) -> Vocabulary:
    """Return the vocabulary that a bake was made for, from what the folder itself holds.

    Raises:
        BadDataset: if the bake is not finished, or of another format.
        ValueError: if its tokenizer is missing or changed.
    """
    info = _baked_info(path)
    described = info["vocabulary"]
    tokenizer = Artifact(path=join(path, info["tokenizer"]), sha256=described["tokenizer_sha256"])
    sizes = {slot: last - first for slot, (first, last) in described["blocks"].items() if slot in BLOCKS}
    try:
        section = VocabularySection.model_validate(info["sequence"]["vocabulary"])
    except ValidationError as error:
        raise BadDataset(f"{path}/baked.json is damaged: {what_is_wrong(error)}; run `interloom bake` again") from None
    return Vocabulary(load_tokenizer(tokenizer), sizes, section, tokenizer.sha256)


def _baked_info(root: str) -> dict[str, Any]:
    path = join(root, "baked.json")
    data, info = read_bytes(path), read_json(path)
    if data is None or info is None:
        raise BadDataset(f"{path} is missing or damaged: the bake is not finished; run `interloom bake` again")
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise BadDataset(f"{path} is not of format {FORMAT}; bake the dataset anew")
    try:
        BakedDescription.model_validate_json(data)
    except ValidationError as error:
        raise BadDataset(f"{path} is damaged: {what_is_wrong(error)}; run `interloom bake` again") from None
    if not all(map(is_inside, [info["tokenizer"], *(name for name, _ in info["shards"])])):
        raise BadDataset(f"{path} names files outside the bake")
    return info
