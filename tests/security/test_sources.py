"""Nothing of ours runs, unpickles or unpacks what it reads. The scan itself is shown to find each of these."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.source_scan import scan

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for package in ("schemas", "stages", "pipeline", "jobs") for path in (ROOT / package).rglob("*.py")
)

KNOWN = {
    "stages/checkpoints.py": {"import pickle.UnpicklingError"},  # the error, to catch it
}

BAD = {
    "eval(text)": "eval",
    "exec(text)": "exec",
    "compile(text, 'f', 'exec')": "compile",
    "run = eval\nrun(text)": "eval",
    "list(map(eval, texts))": "eval",
    "import builtins as b\nb.exec(text)": "builtins.exec",
    "__import__(name)": "__import__",
    "import importlib\nimportlib.import_module(name)": "importlib.import_module",
    "from importlib import import_module as get\nget(name)": "importlib.import_module",
    "import pickle": "import pickle",
    "from pickle import loads": "import pickle.loads",
    "def f():\n    import cloudpickle": "import cloudpickle",
    "import marshal": "import marshal",
    "import shelve as s": "import shelve",
    "import joblib\njoblib.load(file)": "joblib.load",
    "from joblib import load as read\nread(file)": "joblib.load",
    "import pandas as pd\npd.read_pickle(file)": "pandas.read_pickle",
    "import yaml\nyaml.load(text)": "yaml.load",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.load",
    "from yaml import unsafe_load\nunsafe_load(text)": "yaml.unsafe_load",
    "import os\nos.system(text)": "os.system",
    "from os import popen\npopen(text)": "os.popen",
    "import subprocess\nsubprocess.run(text, shell=True)": "shell=True",
    "import subprocess\nsubprocess.getoutput(text)": "subprocess.getoutput",
    "import torch\ntorch.load(file)": "torch.load without weights_only=True",
    "import torch\ntorch.load(file, weights_only=False)": "torch.load without weights_only=True",
    "import torch\ntorch.load(file, weights_only=flag)": "torch.load without weights_only=True",
    "from torch import load\nload(file)": "torch.load without weights_only=True",
    "import numpy as np\nnp.load(file)": "numpy.load without allow_pickle=False",
    "import numpy\nnumpy.load(file, allow_pickle=True)": "numpy.load without allow_pickle=False",
    "read(file, allow_pickle=True)": "allow_pickle=True",
    "load(name, trust_remote_code=True)": "trust_remote_code=True",
    "client.get(url, verify=False)": "verify=False",
    "import tempfile\ntempfile.mktemp()": "tempfile.mktemp",
    "import tarfile\ntarfile.open(name).extractall(folder)": ".extractall()",
    "archive.extract(member)": ".extract()",
    "import shutil\nshutil.unpack_archive(name)": "shutil.unpack_archive",
}
GOOD = (
    "import numpy as np\nnp.load(file, allow_pickle=False)",
    "import torch\ntorch.load(file, weights_only=True)",
    "import re\nre.compile(text)",
    "import torch\ntorch.compile(module)",
    "model.eval()",
    "import yaml\nyaml.safe_load(text)",
    "import ast\nast.literal_eval(text)",
    "import subprocess\nsubprocess.run([name])",
    "archive.extractfile(member)",
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    found = {sight.what for sight in scan(path.read_text(encoding="utf-8"))}
    assert found == KNOWN.get(str(path.relative_to(ROOT)), set())


@pytest.mark.parametrize(("code", "what"), BAD.items())
def test_the_scan_finds_each(code: str, what: str) -> None:
    assert what in {sight.what for sight in scan(code)}


@pytest.mark.parametrize("code", GOOD)
def test_the_scan_lets_pass_what_is_safe(code: str) -> None:
    assert scan(code) == []


WATCH = """
import importlib, sys
asked = []
def hook(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "subprocess.Popen"):
        asked.append((event, str(given[-1])[:80]))
sys.addaudithook(hook)
for name in sys.argv[1:]:
    importlib.import_module(name)
for each in asked:
    print(*each)
"""


def asked_for(folder: Path, *modules: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *modules], cwd=folder, capture_output=True, text=True, check=True, timeout=240
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_no_import_of_ours_asks_the_network_or_starts_a_program() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES]
    assert asked_for(ROOT, *(name.removesuffix(".__init__") for name in modules)) == []


def test_the_watch_sees_what_asks(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text("import socket\nsocket.gethostbyname('localhost')\n")
    (tmp_path / "starts.py").write_text("import subprocess\nsubprocess.run(['true'])\n")
    assert [line.split()[0] for line in asked_for(tmp_path, "asks", "starts")] == [
        "socket.gethostbyname",
        "subprocess.Popen",
    ]
