"""Open a finished units dataset: its description, its commit records and its shards. Trusts commit records only."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Self

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.commit_form import commit_name, malformed_commit
from pipeline.inside import is_inside
from pipeline.recipes import recipe_from
from schemas.contract import UnitContract
from schemas.descriptions import DatasetDescription, what_is_wrong
from schemas.recipe import Recipe
from schemas.tables import SHARDS
from schemas.unit_record import UnitRecord

FORMAT = "interloom-units/1"


class BadDataset(ValueError):
    """The folder is not a finished dataset, or a file of it is damaged; the message names the file and the fix."""


@dataclass(frozen=True)
class Dataset:
    """A finished dataset.

    Attributes:
        root: local folder or fsspec URL.
        info: the content of `dataset.json`.
    """

    root: str
    info: dict[str, Any]

    @classmethod
    def open(cls, root: str, description: str = "dataset.json") -> Self:
        """Read `dataset.json`, or a copy of it in the same folder.

        Raises:
            BadDataset: if it is missing, of another format, or damaged.
        """
        path = f"{root}/{description}"
        try:
            with fsspec.open(path, "rb") as file:
                data = file.read()
            info = json.loads(data)
        except FileNotFoundError:
            raise BadDataset(
                f"{path} is missing: the build is not finished; `interloom status {root}` shows it"
            ) from None
        except (ValueError, RecursionError) as error:
            raise BadDataset(f"{path} is not valid JSON ({error}); run the build again to rewrite it") from error
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise BadDataset(f"{path} is not of format {FORMAT}")
        try:
            DatasetDescription.model_validate_json(data)
        except ValidationError as error:
            told = what_is_wrong(error)
            raise BadDataset(f"{path} is damaged: {told}; run the build again to rewrite it") from None
        return cls(root=root, info=info)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it was built with.

        Raises:
            RecipeError: if it has a key that this version does not know, or lacks one.
        """
        return recipe_from(self.info["recipe"], f"{self.root}/dataset.json")

    @cached_property
    def contracts(self) -> dict[str, UnitContract]:
        """Stream slot to unit contract.

        Raises:
            ContractMismatch: if they have a field that this version does not know.
        """
        return {name: UnitContract.from_json(value) for name, value in self.info["streams"].items()}

    def contract(self, slot: str) -> UnitContract:
        """Return the contract of a stream that a record or a commit record has.

        Raises:
            BadDataset: if `dataset.json` does not give it.
        """
        if slot not in self.contracts:
            raise BadDataset(f"{self.root}/dataset.json does not describe the stream {slot!r} of its shards")
        return self.contracts[slot]

    @property
    def num_splits(self) -> int:
        return int(self.info["splits"])

    def artifact(self, name: str) -> str:
        """Return the path of an artifact, e.g. `tokenizer`.

        Raises:
            BadDataset: if `dataset.json` names a file outside the dataset.
        """
        if name not in self.info["artifacts"]:
            raise BadDataset(f"{self.root}/dataset.json names no artifact {name!r}; run the build again to rewrite it")
        path = self.info["artifacts"][name]["path"]
        if not is_inside(path):
            raise BadDataset(f"{self.root}/dataset.json: artifact {name!r} lies outside the dataset: {path!r}")
        return f"{self.root}/{path}"

    @cached_property
    def shard_table(self) -> pa.Table:
        """One row per split, see `schemas.tables.SHARDS`.

        Raises:
            BadDataset: if `shards.parquet` is missing or damaged.
        """
        path = f"{self.root}/shards.parquet"
        try:
            with fsspec.open(path, "rb") as file:
                data = file.read()
            if hashlib.sha256(data).hexdigest() == self.info["shards"]["sha256"]:
                return pq.read_table(io.BytesIO(data), schema=SHARDS)
        except (FileNotFoundError, KeyError, pa.ArrowInvalid):
            pass
        raise BadDataset(f"{path} is missing or damaged; run the build again to rewrite it")

    def shard(self, split: int) -> str:
        return f"{self.root}/shards/shard-{split:06d}.tar"

    def commit(self, split: int) -> dict[str, Any]:
        """Return a split's commit record.

        Raises:
            BadDataset: if it is missing or damaged.
        """
        path = f"{self.root}/shards/{commit_name(split)}"
        try:
            with fsspec.open(path, "rb") as file:
                value = json.load(file)
        except (FileNotFoundError, ValueError, RecursionError):
            value = None
        if (told := malformed_commit(value, split)) is not None:
            fix = f"run `interloom repair {self.root}`"
            raise BadDataset(f"{path} is missing or damaged ({told}), so its shard does not count; {fix}")
        found: dict[str, Any] = value
        return found

    def records(self, split: int) -> Iterator[UnitRecord]:
        """Yield a shard's records in order, reading one at a time.

        Raises:
            BadDataset: if the shard has no commit record, is damaged, or holds another number of records.
        """
        promised, count = self.commit(split)["records"], 0
        for key, members in samples(self.shard(split)):
            yield UnitRecord.from_members(key, members)
            count += 1
        if count != promised:
            raise BadDataset(f"{self.shard(split)} holds {count} records, its commit record promises {promised}")


def samples(url: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, members by extension) of a WebDataset tar, streaming.

    Raises:
        BadDataset: if the tar is damaged, or holds what no shard of ours does; the message names it.
    """
    try:
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            key, members = "", dict[str, bytes]()
            for info in tar:
                if not info.isfile():
                    continue
                if info.issparse() or "/" in info.name:  # a sparse member of a kilobyte may unfold to terabytes
                    raise tarfile.ReadError(f"{info.name[:100]!r} is no plain file KEY.EXTENSION")
                stem, _, extension = PurePosixPath(info.name).name.partition(".")
                if stem != key and members:
                    yield key, members
                    members = {}
                key = stem
                body = tar.extractfile(info)
                members[extension] = body.read() if body is not None else b""
                if len(members[extension]) != info.size:
                    raise tarfile.ReadError("it breaks off")
            if file.seek(0, io.SEEK_END) % tarfile.RECORDSIZE:
                raise tarfile.ReadError("it breaks off")
            if members:
                yield key, members
    # Beside its own: what numbers of a pax header cost, and an IndexError where a sparse header breaks off.
    except (tarfile.TarError, EOFError, OverflowError, ValueError, IndexError) as error:
        raise BadDataset(f"{url} is damaged ({error}); delete its commit record and run the build again") from error
