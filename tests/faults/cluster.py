"""A Ray cluster of two nodes on loopback, with a token, one of which may be killed and comes back."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil


class Cluster:
    """Attributes: address, for the engine's option; environment, for the driver: it must know the token."""

    def __init__(self, folder: Path, repository: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self._folder = folder
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # A busy machine must not pass for a dead node; a killed raylet refuses the connection and is found at once.
        patience = {"RAY_health_check_timeout_ms": "60000", "RAY_health_check_initial_delay_ms": "60000"}
        self.environment = {**token, **patience, "RAY_task_oom_retries": "1", "RAY_worker_niceness": "0"}
        self._nodes_environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": str(repository),
            "TMPDIR": str(folder),
        }
        port = self.address.rpartition(":")[2]
        self._head = self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/r")
        self._wait(1)
        self._node = self._start(f"--address={self.address}")
        self._wait(2)

    @property
    def roots(self) -> tuple[int, ...]:
        return (self._head.pid, self._node.pid)

    @property
    def second(self) -> int:
        return self._node.pid

    def look_after(self) -> None:
        """Start the second node again if it is dead."""
        if self._node.poll() is not None or _raylet(self._node.pid) is None:
            _kill_group(self._node)
            self._node = self._start(f"--address={self.address}")

    def kill_second(self) -> bool:
        """Kill the second node's raylet; return whether it was there."""
        raylet = _raylet(self._node.pid)
        if raylet is None:
            return False
        with suppress(psutil.Error):
            raylet.kill()
            return True
        return False

    def close(self) -> None:
        _kill_group(self._node)
        _kill_group(self._head)

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        code = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
        command = [
            sys.executable,
            "-c",
            code,
            "start",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=2",
            *options,
            "--block",
        ]
        with open(self._folder / "nodes.log", "ab") as log:
            return subprocess.Popen(
                command, env=self._nodes_environment, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )

    def _wait(self, nodes: int) -> None:
        code = (
            "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False);"
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            command = [sys.executable, "-c", code, self.address]
            done = subprocess.run(command, env=self._nodes_environment, capture_output=True, text=True, check=False)
            if done.stdout.strip() == str(nodes):
                return
            time.sleep(1)
        raise RuntimeError(f"{nodes} nodes did not come up: {done.stderr[-1000:]}")


def _raylet(root: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.Error):
                if "raylet/raylet" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    return process
    return None


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(psutil.Error):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                one.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
