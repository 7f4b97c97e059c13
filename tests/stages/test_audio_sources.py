"""An object is taken whole or not at all, however its server sends it. The server is on loopback."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import fsspec
import pytest
import s3fs

from schemas.rejects import Reason
from stages import audio_sources
from stages.audio_sources import AudioProblem, open_source

BODY = bytes(range(256)) * 4096
PIECES = 16
CUT = len(BODY) // 2


class Handler(BaseHTTPRequestHandler):
    """Serves `BODY` as the path says, in pieces that arrive one after the other."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        lengths = {"chunked": None, "chunked-cut": None, "less-told": CUT, "more-told": 2 * len(BODY), "zero-told": 0}
        self._begin(200, lengths.get(self.path[1:], len(BODY)))

    def do_GET(self) -> None:
        ways = {"ranges": self._ranges, "chunked": self._chunked}
        with suppress(OSError):  # who has enough hangs up
            ways.get(self.path[1:].removesuffix("-cut"), self._plain)()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def _begin(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if self.path.startswith("/no-ranges"):
            self.send_header("Accept-Ranges", "none")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _plain(self) -> None:
        self._begin(200, len(BODY))
        self._send(BODY, lambda piece: piece)

    def _ranges(self) -> None:
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        first, last = map(int, asked.split("-")) if asked else (0, len(BODY) - 1)
        body = BODY[first : last + 1]
        told = {"Content_Range": f"bytes {first}-{first + len(body) - 1}/{len(BODY)}"} if asked else {}
        self._begin(206 if asked else 200, len(body), **told)
        self._send(body, lambda piece: piece)

    def _chunked(self) -> None:
        self._begin(200, None)
        self._send(BODY, lambda piece: b"%x\r\n%s\r\n" % (len(piece), piece))
        if not self.close_connection:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, body: bytes, framed: Callable[[bytes], bytes]) -> None:
        size = len(body) // PIECES
        for at in range(0, len(body), size):
            if self.path.endswith("-cut") and at >= CUT:
                self.close_connection = True
                return
            self.wfile.write(framed(body[at : at + size]))
            time.sleep(0.002)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def fetched(location: str) -> bytes:
    opened = open_source(location)
    assert isinstance(opened, BytesIO)
    return opened.getvalue()


WAYS = ["plain", "ranges", "no-ranges", "chunked", "less-told", "more-told", "zero-told"]


@pytest.mark.parametrize("way", WAYS)
def test_an_object_is_whole_however_it_is_sent(server: str, way: str) -> None:
    assert fetched(f"{server}/{way}") == BODY


@pytest.mark.parametrize("way", ["plain-cut", "ranges-cut", "no-ranges-cut", "chunked-cut"])
def test_a_connection_that_breaks_costs_the_record(server: str, way: str) -> None:
    with pytest.raises(AudioProblem) as caught:
        fetched(f"{server}/{way}")
    assert caught.value.reason is Reason.MISSING_AUDIO


@pytest.mark.parametrize("way", WAYS)
def test_no_more_is_read_than_may_be_held(server: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sources, "MAX_OBJECT", len(BODY))
    assert fetched(f"{server}/{way}") == BODY
    monkeypatch.setattr(audio_sources, "MAX_OBJECT", len(BODY) - 1)
    with pytest.raises(AudioProblem, match="larger") as caught:
        fetched(f"{server}/{way}")
    assert caught.value.reason is Reason.UNREADABLE_AUDIO


class Stored(BytesIO):
    """An object of a store, which gives less at once than it is asked for."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(1000 if size is None or size < 0 else min(size, 1000))


def test_an_object_of_a_store_is_as_long_as_the_store_says(monkeypatch: pytest.MonkeyPatch) -> None:
    data = BODY[:4321]
    monkeypatch.setattr(fsspec, "open", lambda *_, **__: Stored(data, len(data)))
    assert fetched("s3://bucket/a.wav") == data
    monkeypatch.setattr(fsspec, "open", lambda *_, **__: Stored(data, len(data) + 1))
    with pytest.raises(OSError, match="cannot be reached") as caught:
        fetched("s3://bucket/a.wav")
    assert caught.value.errno == errno.EIO


class Refusing(BaseHTTPRequestHandler):
    """An S3 server that refuses every request with the status and the code in the name of the bucket."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._refuse(b"")

    def do_GET(self) -> None:
        code = self.path.split("/")[1].split("?")[0].split("-")[1].encode()
        self._refuse(b"<?xml version='1.0'?><Error><Code>" + code + b"</Code><Message>no</Message></Error>")

    def _refuse(self, body: bytes) -> None:
        self.send_response(int(self.path.split("/")[1].split("-")[0]))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (
        ("ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
        ("ACCESS_KEY_ID", "id"),
        ("SECRET_ACCESS_KEY", "key"),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "refusal",
    [
        "400-ExpiredToken",
        "403-ExpiredToken",
        "403-RequestTimeTooSkewed",
        "400-InvalidToken",
        "403-SignatureDoesNotMatch",
    ],
)
def test_a_store_that_refuses_us_costs_no_record(refusing: None, refusal: str) -> None:
    with pytest.raises(OSError, match=refusal[4:]) as caught:
        fetched(f"s3://{refusal}/a.wav")
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("refusal", ["403-AccessDenied", "403-InvalidObjectState", "404-NoSuchKey"])
def test_a_store_that_refuses_an_object_costs_its_record(refusing: None, refusal: str) -> None:
    with pytest.raises(AudioProblem):
        fetched(f"s3://{refusal}/a.wav")
