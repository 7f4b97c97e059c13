"""Files for clusters and the commands of docs/clusters.md, checked as far as that goes without a cluster."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(extra: str, package: str) -> str:
    return next(r.partition("==")[2] for r in PROJECT["optional-dependencies"][extra] if r.startswith(f"{package}=="))


def beam_commands() -> list[list[str]]:
    """Return what stands after `--` in each command for Beam."""
    text = (ROOT / "docs" / "clusters.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *interloom build .*--engine beam.* -- (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_versions_are_those_of_the_project() -> None:
    cluster = next(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))
    assert cluster["spec"]["rayVersion"] == pinned("ray", "ray")
    assert f"sdk:{pinned('beam', 'apache-beam')} " in (DEPLOY / "Dockerfile.beam").read_text()
    assert f"ray[default]=={pinned('ray', 'ray')}" in (ROOT / "docs" / "clusters.md").read_text()


def test_every_pod_has_the_token_and_no_privileges() -> None:
    cluster, policy = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry for entry in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "value" not in environment["RAY_AUTH_TOKEN"]
        assert container["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_setup_py_leaves_all_to_pyproject() -> None:
    tree = ast.parse((DEPLOY / "setup.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls] == ["setuptools.setup()"]


def test_there_are_commands_for_every_runner() -> None:
    runners = {word for command in beam_commands() for word in command if word.startswith("--runner=")}
    assert runners == {f"--runner={name}Runner" for name in ("Portable", "Flink", "Spark", "Dataflow")}


SHIPPED = """
import json
from pipeline.engines.on_ray import init_arguments, parse_options
print(json.dumps(init_arguments(parse_options(["--address=127.0.0.1:1"]), 1, "")["runtime_env"]["py_modules"]))
"""


def test_a_submitted_job_ships_its_packages_from_where_ray_put_each(tmp_path: Path) -> None:
    packages = ("schemas", "stages", "pipeline", "jobs")
    for name in packages:
        shutil.copytree(ROOT / name, tmp_path / f"of-{name}" / name, ignore=shutil.ignore_patterns("__pycache__"))
    places = os.pathsep.join(str(tmp_path / f"of-{name}") for name in packages)
    done = subprocess.run(
        [sys.executable, "-c", SHIPPED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [str((tmp_path / f"of-{name}" / name).resolve()) for name in packages]


@pytest.mark.slow
@pytest.mark.parametrize("command", beam_commands(), ids=lambda command: command[0])
def test_beam_knows_every_option_of_the_documented_commands(command: list[str]) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    real = {"PROJECT": "some-project", "BUCKET": "some-bucket", "REGION": "europe-west4"}
    given = [re.sub("|".join(real), lambda found: real[found[0]], word) for word in command]
    options = PipelineOptions(given)
    known = options.get_all_options(drop_default=True)
    assert len(known) == len(given), known
    runner = create_runner(options.view_as(StandardOptions).runner)
    assert PipelineOptionsValidator(options, runner).validate() == []
