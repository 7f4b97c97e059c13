"""Recipes with hostile content or paths, and tars that no shard of ours could be."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

from tests.fuzz.seeds_text import record_members, shard_seeds, sparse_tar
from tests.zoo.book import Case, Zoo

LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (97 + i, 97 + i, b",".join([b"*%c" % (96 + i)] * 9)) for i in range(1, 12)
)


def add_recipes(zoo: Zoo) -> None:
    folder = zoo.out / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (
        ("python-tag", b"name: !!python/object/apply:os.system ['touch pwned']\n"),
        ("python-name", b"units: !!python/name:os.system\n"),
        ("laughs", LAUGHS),
        ("laughs-known", LAUGHS.replace(b"l: &l", b"units: &l")),
        ("deep", b"[" * 100_000),
        ("deep-map", b"{a: " * 20_000),
        ("binary", bytes(range(256))),
        ("list", b"- a\n- b\n"),
        ("unknown", b"unitz: {}\n"),
        ("nan", b"decode: {max_seconds: .nan}\n"),
        ("inf", b"decode: {max_seconds: .inf, min_seconds: .inf}\n"),
        ("negative", b"units: {clusters: -5}\n"),
        ("digits", b"units: {clusters: " + b"9" * 5000 + b"}\n"),
        ("huge", b"name: x\n#" + b"x" * 1_100_000),
        ("key-list", b"? [a, b]\n: c\n"),
        ("nul", b"name: a\0b\n"),
        ("merge", b"<<: 5\n"),
        ("date", b"decode: {max_seconds: 2020-01-01}\n"),
        ("align-passwd", b"align: {backend: imported, path: ../../../../../../etc/passwd}\n"),
        ("align-zero", b"align: {backend: imported, path: /dev/zero}\n"),
        ("align-url", b"align: {backend: imported, path: 'file:///etc/passwd'}\n"),
        ("align-http", b"align: {backend: imported, path: 'http://127.0.0.1:9/x'}\n"),
        ("align-nul", b'align: {backend: imported, path: "a\\0b"}\n'),
        ("align-empty", b"align: {backend: imported, path: ''}\n"),
        ("name-path", b"name: ../../x\nunitz: 1\n"),
    ):
        path = folder / f"{name}.yaml"
        path.write_bytes(data)
        zoo.recipes.append(Case(name=f"{name}.yaml", group="recipe", expect=("error",), path=str(path)))
    fifo = folder / "fifo.yaml"
    os.mkfifo(fifo)
    for path in (
        str(fifo),
        str(folder),
        "/dev/zero",
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:9/r.yaml",
        "a\0b",
        "x" * 5000,
        "",
        "-",
    ):
        zoo.recipes.append(Case(name=f"path {path[-40:]!r}", group="recipe path", expect=("error",), path=path))


def add_shards(zoo: Zoo) -> None:
    folder = zoo.out / "shards"
    folder.mkdir(parents=True, exist_ok=True)

    def case(name: str, data: bytes, *expect: str) -> None:
        path = folder / f"{name}.tar"
        path.write_bytes(data + bytes(-len(data) % 10240))
        zoo.shards.append(Case(name=name, group="shard", expect=expect, path=str(path)))

    case("good", shard_seeds()[0], "record")
    for name, member in (
        ("parent", "../../etc/passwd.json"),
        ("absolute", "/etc/passwd.json"),
        ("folder", "a/b.json"),
        ("newline", "a\nb.json"),
        ("empty", ""),
        ("dot", "."),
        ("no-extension", "u1"),
        ("long", "k" * 90 + ".json"),
        ("unicode", "\u202eu.json"),
    ):
        case(f"name-{name}", tar((member, b"{}")), "refused")
    for name, kind, link in (
        ("symlink", tarfile.SYMTYPE, "/etc/passwd"),
        ("hardlink", tarfile.LNKTYPE, "/etc/passwd"),
        ("fifo", tarfile.FIFOTYPE, ""),
        ("device", tarfile.CHRTYPE, ""),
        ("folder", tarfile.DIRTYPE, ""),
    ):
        case(f"member-{name}", tar(("u1.json", b""), type=kind, linkname=link), "nothing", "refused")
    case("twice", tar(*record_members("u1").items(), *record_members("u1").items(), key="u1"), "record", "refused")
    case("another-key", tar(*record_members("u2").items(), key="u1"), "refused")
    for name, pax in (
        ("size", {"size": "99999999999999"}),
        ("minus", {"size": "-5"}),
        ("sparse", {"GNU.sparse.size": "4294967296", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}),
        ("map", {"GNU.sparse.map": "x"}),
        ("path", {"path": "../../etc/passwd.json"}),
    ):
        case(f"pax-{name}", tar(("u1.json", b"{}"), format=tarfile.PAX_FORMAT, pax_headers=pax), "refused")
    case("sparse-bomb", sparse_tar(1 << 32), "refused")
    case("cut", shard_seeds()[0][:3000], "refused")
    case("zeros", bytes(20480), "nothing")
    case("no-tar", b"this is no tar" * 900, "refused")
    for name, data in (
        ("json-deep", b"[" * 100_000),
        ("json-list", b"[]"),
        ("json-nan", b'{"words": NaN}'),
        ("json-empty", b""),
    ):
        case(name, tar(("u1.json", data)), "refused")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
    for name, shape in (
        ("pickle", (b"|O", b"(1,)")),
        ("huge", (b"<u2", b"(99999999999999,)")),
        ("deep", (b"<u2", b"(" * 50)),
        ("call", (b"<u2", b"__import__('os').system('touch pwned')")),
    ):
        npy = (header % shape).ljust(127) + b"\n" + bytes(4)
        case(f"npy-{name}", tar(*{**record_members("u1"), "hubert.npy": npy}.items(), key="u1"), "refused")


def tar(*members: tuple[str, bytes], key: str = "", **facts: Any) -> bytes:
    """Return a tar; `facts` are attributes of every member's header, or the tar's format."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=facts.pop("format", tarfile.GNU_FORMAT)) as out:
        for name, data in members:
            info = tarfile.TarInfo(f"{key}.{name}" if key else name)
            info.size = len(data)
            for attribute, value in facts.items():
                setattr(info, attribute, value)
            out.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def is_clean(folder: Path) -> bool:
    """True if nothing that a case asks for was carried out in a folder."""
    return not (folder / "pwned").exists()
