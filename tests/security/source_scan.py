"""Finds in Python source what may run or trust what was read, under whatever name it was imported."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

FORBIDDEN = {
    # text or bytes that become code
    "eval", "exec", "compile", "builtins.eval", "builtins.exec", "builtins.compile", "code.interact", "runpy.run_path",
    "runpy.run_module", "importlib.import_module", "__import__", "ctypes.cdll.LoadLibrary",
    # formats that run what they hold
    "joblib.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
    # a shell
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    "commands.getoutput", "os.execl", "os.execlp", "os.execvp", "os.spawnlp", "os.spawnvp",
    # a name that anybody may take before we do; archives that say where their files go; a server
    "tempfile.mktemp", "shutil.unpack_archive", "http.server.HTTPServer", "socketserver.TCPServer",
    # a connection that nobody checks
    "ssl._create_unverified_context", "telnetlib.Telnet", "ftplib.FTP",
}  # fmt: skip
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "dbm"}
NEEDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
REFUSED_OPTIONS = {
    "shell": True,
    "allow_pickle": True,
    "weights_only": False,
    "verify": False,
    "trust_remote_code": True,
}
METHODS = {"extractall", "extract"}
"""Of archives: nothing of ours unpacks one."""


class Sight(NamedTuple):
    """Something found: line and what it is."""

    line: int
    what: str


def scan(source: str) -> list[Sight]:
    """Return what stands in a module's source that must not, in order of lines."""
    tree = ast.parse(source)
    names = _names(tree)
    return sorted({*_imports(tree), *_calls(tree, names), *_uses(tree, names)})


def _names(tree: ast.AST) -> dict[str, str]:
    """Return what the imported names of a module stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of what is called, "" where it is no plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *parts])


def _imports(tree: ast.AST) -> Iterator[Sight]:
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in found:
            if name.partition(".")[0] in MODULES:
                yield Sight(node.lineno, f"import {name}")


def _calls(tree: ast.AST, names: dict[str, str]) -> Iterator[Sight]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func, names)
        given = {word.arg: word.value for word in node.keywords if word.arg}
        if name in NEEDED:
            option, wanted = NEEDED[name]
            if not _is(given.get(option), wanted):
                yield Sight(node.lineno, f"{name} without {option}={wanted}")
        for option, refused in REFUSED_OPTIONS.items():
            if _is(given.get(option), refused) and name not in NEEDED:
                yield Sight(node.lineno, f"{option}={refused}")
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield Sight(node.lineno, f".{node.func.attr}()")


def _uses(tree: ast.AST, names: dict[str, str]) -> Iterator[Sight]:
    """Find forbidden functions wherever they are named, called or handed on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = _dotted(node, names)
            if name in FORBIDDEN:
                yield Sight(node.lineno, name)


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
