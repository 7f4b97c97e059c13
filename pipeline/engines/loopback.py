"""Engines that we start for ourselves are reached from this machine only, as far as they let us.

Left alone, both open ports on every interface. Beam's runners serve the portable API there without authentication,
and its artifact service hands out any file that we can read. Ray has a token, but listens where others can try it.

Other users of this machine still reach Beam's ports: only a container or a network namespace keeps those out.
"""

import secrets
from typing import Any

EVERY_INTERFACE = frozenset({"", "*", "0.0.0.0", "[::]"})


def private_ray() -> dict[str, str]:
    """Return the environment of a Ray of our own, to be set before Ray is imported.

    Without support for clusters its node has the address 127.0.0.1, and each of its ports listens there. Who connects
    must know a token that is made for this run and kept in no file.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def serve_on_loopback_only() -> None:
    """Let all gRPC servers that this process makes from now on listen on loopback instead of every interface.

    Beam starts its workers with the address `localhost` in any case.
    """
    import grpc  # type: ignore[import-untyped]

    make = grpc.server

    def server(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        for name in ("add_insecure_port", "add_secure_port"):
            setattr(made, name, _on_loopback(getattr(made, name)))
        return made

    grpc.server = server


def _on_loopback(add_port: Any) -> Any:
    def add(address: str, *rest: Any) -> Any:
        return add_port(loopback_of(address), *rest)

    return add


def loopback_of(address: str) -> str:
    """Return where to listen: `[::]:0` becomes `localhost:0`, and an address of one interface stays."""
    host, colon, port = address.rpartition(":")
    return f"localhost:{port}" if colon and host in EVERY_INTERFACE else address
