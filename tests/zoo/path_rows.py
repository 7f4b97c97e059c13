"""Where the audio is said to lie: what is no regular file is never opened."""

import os
import socket
from typing import Any

from tests.zoo.book import BAD_ROW, DURATION, MISSING, OFFSET, RECORD, UNREADABLE, Zoo

WINDOW = {"offset": OFFSET, "duration": DURATION}


def add_places(zoo: Zoo) -> None:
    place = zoo.out / "audio" / "places"
    place.mkdir(parents=True, exist_ok=True)
    good = zoo.out / "good.flac"

    def row(group: str, name: str, path: str, *expect: str) -> None:
        fields: dict[str, Any] = WINDOW if RECORD in expect else {}
        zoo.row(group, name, *expect, audio_filepath=path, **fields)

    for name, target in (
        ("to-file", "../../good.flac"),
        ("to-nothing", "nowhere.wav"),
        ("to-itself", "to-itself.wav"),
        ("to-zero", "/dev/zero"),
        ("to-folder", "."),
        ("to-full", "/dev/full"),
        ("to-tty", "/dev/tty"),
    ):
        link = place / f"{name}.wav"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        expect = {"to-file": RECORD, "to-nothing": MISSING, "to-itself": MISSING, "to-tty": UNREADABLE}
        row("link", f"link-{name}", f"audio/places/{name}.wav", expect.get(name, UNREADABLE))
    os.mkfifo(place / "fifo.wav")
    (place / "folder.wav").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(place)  # the name of a socket may have 100 bytes
        listener.bind("socket.wav")
        os.chdir(here)
    for name in ("fifo", "folder", "socket"):
        row("no regular file", f"{name}-as-audio", f"audio/places/{name}.wav", UNREADABLE)
    for path in (
        "/dev/zero",
        "/dev/urandom",
        "/dev/stdin",
        "/dev/null",
        "/proc/self/mem",
        "/proc/kmsg",
        "/",
        "/proc/self/fd",
    ):
        row("no regular file", f"device {path}", path, UNREADABLE, MISSING)
    # Mode 0 does not keep root out; a file below a file, and one that may only be written, do.
    row("unreadable", "below-a-file", "good.flac/x.wav", MISSING)
    row("unreadable", "write-only", "/proc/sys/net/ipv4/route/flush", UNREADABLE, MISSING)
    closed = zoo.out / zoo.file("audio/places/mode-0.flac", good.read_bytes())
    closed.chmod(0)
    row("unreadable", "mode-0", "audio/places/mode-0.flac", RECORD if os.geteuid() == 0 else UNREADABLE)
    add_names(zoo)


def add_names(zoo: Zoo) -> None:
    data = (zoo.out / "good.flac").read_bytes()
    for index, name in enumerate(
        (
            "new\nline.flac",
            "-n.flac",
            "sp ace.flac",
            "quo'te\".flac",
            "$(touch pwned).flac",
            "%s%n.flac",
            "back\\slash.flac",
            "\u202egnp.flac",
            "e\u0301.flac",
            "\u00e9.flac",
            "x" * 250 + ".flac",
            "a.tar.gz.flac",
            ".hidden.flac",
            "[ab]*.flac",
            "\x01\x1b.flac",
            "trailing .flac",
            "a::b.flac",
            "#1.flac",
            "a?b=c.flac",
            "\U0001f6a2.flac",
        )
    ):
        path = zoo.file(f"audio/names/{name}", data)
        zoo.row("odd file name", f"name-{index}", RECORD, audio_filepath=path, **WINDOW)
    good = str(zoo.out / "good.flac")
    for name, path, expect in (
        ("absolute", good, (RECORD,)),
        ("dots", "audio/../good.flac", (RECORD,)),
        ("slashes", "audio//..///good.flac", (RECORD,)),
        ("file-url", f"file://{good}", (RECORD,)),
        ("passwd", "../" * 40 + "etc/passwd", (UNREADABLE,)),
        ("passwd-absolute", "/etc/passwd", (UNREADABLE,)),
        ("passwd-url", "file:///etc/passwd", (UNREADABLE,)),
        ("zero-url", "file:///dev/zero", (UNREADABLE,)),
        ("home", "~/.ssh/id_rsa", (MISSING,)),
        ("glob", "*.flac", (MISSING,)),
        ("variable", "$HOME/x.wav", (MISSING,)),
        ("long-name", "x" * 300 + ".wav", (MISSING,)),
        ("long-path", "a/" * 4000, (MISSING,)),
        ("dot", ".", (UNREADABLE,)),
        ("empty", "", (BAD_ROW,)),
        ("nul", "good.flac\0.wav", (BAD_ROW,)),
        ("minus", "-", (MISSING,)),
        ("pipe", "|cat good.flac", (MISSING,)),
        ("data-url", "data:audio/wav;base64,AAAA", (MISSING,)),
        ("space", " good.flac", (MISSING,)),
        ("ftp", "ftp://x/a.wav", (BAD_ROW,)),
        ("ssh", "ssh://x/a.wav", (BAD_ROW,)),
        ("github", "github://a:b@main/x.wav", (BAD_ROW,)),
        ("chained", "simplecache::file:///etc/passwd", (BAD_ROW,)),
        ("zip-url", "zip://a.wav::file:///x.zip", (BAD_ROW,)),
        ("unknown-url", "nosuch://x", (BAD_ROW,)),
        ("local-url", "local:///dev/zero", (BAD_ROW,)),
        ("upper-url", "S3://b/k", (BAD_ROW,)),
        ("no-object", "memory://nowhere/x.wav", (MISSING,)),
        ("closed-port", "http://127.0.0.1:9/x.wav", (MISSING,)),
        ("concat", "concat:good.flac|good.flac", (MISSING,)),
        ("subfile", "subfile,,start,0,end,0,,:good.flac", (MISSING,)),
        ("lavfi", "sine=frequency=440", (MISSING,)),
        ("backslashes", "..\\..\\etc\\passwd", (MISSING,)),
    ):
        zoo.row("odd path", f"path-{name}", *expect, audio_filepath=path, **(WINDOW if RECORD in expect else {}))
    zoo.raw(
        "lone surrogate",
        "path-surrogate",
        b'{"id": "path-surrogate", "audio_filepath": "\\udcff.wav", "text": "x"}',
        BAD_ROW,
    )
