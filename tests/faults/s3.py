"""A real S3 server in a process of its own, and a proxy before it that misbehaves when told to."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUCKET = "bucket"


class Server:
    """moto's server on loopback. It keeps everything in memory; its recorder brings it back after a kill."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._recording = folder / "recording"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, "MOTO_ENABLE_RECORDING": "True", "MOTO_RECORDER_FILEPATH": str(self._recording)}
        code = "import sys; from moto.server import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(self.port)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _until_it_answers(f"{self.url}/moto-api/data.json")
        if self._recording.exists():
            _mend(self._recording)
            _post(f"{self.url}/moto-api/recorder/replay-recording")
        else:
            _post(f"{self.url}/moto-api/recorder/start-recording")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def _mend(recording: Path) -> None:
    """Leave out a row torn by the kill and requests whose body was cut; part rows that two threads wrote at once."""
    text, at, decoder, rows = recording.read_text(), 0, json.JSONDecoder(), []
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            row, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        body = base64.b64decode(row["body"]) if row["body_encoded"] else b""
        if len(body) == int(row["headers"].get("Content-Length") or 0):
            rows.append(json.dumps(row))
    recording.write_text("".join(f"{row}\n" for row in rows))


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60) as answer:
        answer.read()


def _until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Proxy:
    """Passes bytes on to the server.

    Attributes:
        down: refuse and drop every connection.
        cut_after: drop a connection once so many bytes were sent on it, and then clear this.
        cut_parts: drop a connection once so many bytes of a PUT's body were sent on it, until a client gives up an
            upload in parts (DELETE), and then clear this.
        in_put: once so many bytes of a PUT's body were sent on, clear this, call, and drop the connection.
        swallow: part of a URL: pass the next PUT or POST of it on, wait for the answer, drop the connection.
        cuts: connections that were dropped by the four above.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.down = False
        self.cut_after: int | None = None
        self.cut_parts: int | None = None
        self.in_put: tuple[int, Callable[[], None]] | None = None
        self.swallow = ""
        self.cuts = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drop_all(self) -> None:
        for one in list(self._open):
            _close(one)

    def close(self) -> None:
        self.down = True
        self.drop_all()
        _close(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                _close(ours)
                continue
            try:
                theirs = socket.create_connection(("127.0.0.1", self._target), timeout=60)
            except OSError:
                _close(ours)
                continue
            self._open |= {ours, theirs}
            state = {"swallowing": False}
            for source, sink, up in ((ours, theirs, True), (theirs, ours, False)):
                threading.Thread(target=self._pass_on, args=(source, sink, up, state), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, up: bool, state: dict[str, bool]) -> None:
        sent = body = 0
        putting = False
        with suppress(OSError):
            while data := source.recv(2**16):
                if up and data.startswith((b"PUT ", b"POST ", b"GET ", b"HEAD ", b"DELETE ")):
                    request, _, rest = data.partition(b"\r\n\r\n")
                    first, putting, body = request.split(b"\r\n")[0], data.startswith(b"PUT "), len(rest)
                    if self.swallow and first.startswith((b"PUT ", b"POST ")) and self.swallow.encode() in first:
                        self.swallow, state["swallowing"] = "", True
                    if first.startswith(b"DELETE ") and b"uploadId=" in first:
                        self.cut_parts = None
                elif up:
                    body += len(data)
                if not up and state["swallowing"] and not data.startswith(b"HTTP/1.1 100"):
                    self.cuts += 1
                    break
                sink.sendall(data)
                sent += len(data)
                if up and self.cut_after is not None and sent > self.cut_after:
                    self.cut_after = None
                    self.cuts += 1
                    break
                if up and putting and self._interrupts(body):
                    self.cuts += 1
                    break
        _close(source)
        _close(sink)
        self._open -= {source, sink}

    def _interrupts(self, body: int) -> bool:
        """Whether a PUT ends here, of whose body so many bytes were sent on."""
        if self.in_put is not None and body >= self.in_put[0]:
            (_, call), self.in_put = self.in_put, None
            call()
            return True
        return self.cut_parts is not None and body >= self.cut_parts


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def bucket(folder: Path) -> Iterator[tuple[Server, Proxy]]:
    """A server with one empty bucket behind a proxy, both named by the usual environment."""
    import s3fs

    server = Server(folder)
    server.start()
    proxy = Proxy(server.port)
    ours = {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(ours)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield server, proxy
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        for name in ours:
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]
        proxy.close()
        server.kill()
