"""Engines that we start for ourselves are not reached from other machines: what listens, as the kernel tells it."""

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import grpc
import pytest

from pipeline.engines import loopback
from tests.security.listeners import Listener, carriers, listeners, watched

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys
from pathlib import Path
from pipeline.drive import EngineSettings, drive
from tests.poison import PoisonConfig, job_for
root, engine, workers, *options = sys.argv[1:]
job, plan = job_for(Path(root), PoisonConfig(seconds=0.4))
settings = EngineSettings(engine=engine, workers=int(workers), options=tuple(options), stall_seconds=240)
drive(job, plan, settings, lambda *_: None)
"""
ENGINES = {
    "local": ("local", "2"),
    "ray": ("ray", "2"),
    "beam processes": ("beam", "2"),
    "beam portable": ("beam", "1", "--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
}
QUIET = {"local"}
"""Engines that listen on nothing at all."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_nothing_of_ours_listens_beyond_this_machine(tmp_path: Path, name: str) -> None:
    mark = f"listens-{uuid.uuid4().hex}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with watched(mark) as found:
        subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path / "out"), *ENGINES[name]],
            cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT), "MARK": mark}, check=True, timeout=280,
        )  # fmt: skip
    assert {each for each in found if not each.loopback} == set()
    assert bool(found) == (name not in QUIET)


@pytest.mark.parametrize(
    ("address", "loopback_only"),
    [("127.0.0.1", True), ("0.0.0.0", False), ("::1", True), ("::", False)],
)
def test_the_watch_tells_open_sockets_from_closed_ones(address: str, loopback_only: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        found = next(each for each in listeners([os.getpid()]) if each.port == server.getsockname()[1])
    assert found.address == address
    assert found.loopback == loopback_only


def test_a_mapped_address_is_what_it_maps() -> None:
    assert Listener("::ffff:127.0.0.1", 1, "x").loopback
    assert not Listener("::ffff:10.0.0.1", 1, "x").loopback


def test_marked_processes_are_found() -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    child = subprocess.Popen(["sleep", "60"], env={"MARK": mark})
    try:
        assert carriers(mark) == [child.pid]
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("[::]:0", "localhost:0"),
        ("0.0.0.0:8099", "localhost:8099"),
        (":8099", "localhost:8099"),
        ("*:1", "localhost:1"),
        ("localhost:7", "localhost:7"),
        ("10.1.2.3:7", "10.1.2.3:7"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("unix-abstract:name", "unix-abstract:name"),
    ],
)
def test_every_interface_becomes_loopback_and_nothing_else_changes(asked: str, given: str) -> None:
    assert loopback.loopback_of(asked) == given


def test_a_server_that_asks_for_every_interface_gets_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(grpc, "server", grpc.server)
    loopback.serve_on_loopback_only()
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("[::]:0")
    server.start()
    try:
        mine = [each for each in listeners([os.getpid()]) if each.port == port]
        assert mine
        assert all(each.loopback for each in mine)
    finally:
        server.stop(None)


def test_each_ray_of_our_own_has_a_token_of_its_own() -> None:
    first, second = loopback.private_ray(), loopback.private_ray()
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
