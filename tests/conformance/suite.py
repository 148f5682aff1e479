"""Runs docker-py's own integration suite against a Docker endpoint, and compares two runs by test id.

Theory of operation. The suite comes from docker-py's source distribution (`tools/clients`); it runs in a virtual
environment of its own, with a clean HOME, and with the endpoint bound over /var/run/docker.sock in a private mount
namespace, because some of its tests lose DOCKER_HOST and would silently talk to the machine's own engine.

    a test that …                              counts as
    passes on the engine, passes here          fine
    passes on the engine, fails here           a difference: run again alone; reported if it fails again
    fails on the engine                        not ours to judge
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / ".venv/clients/docker-py"
EXCEPTIONS = Path(__file__).with_name("exceptions.txt")
PINS = ["docker==7.0.0", "requests==2.31.0", "pytest==7.4.2", "pytest-timeout==2.1.0", "paramiko", "websocket-client"]
DESELECT = "tests/integration/credentials/utils_test.py::test_create_environment_dict"
TAGS = ["alpine:3.10", "alpine:latest", "hello-world:latest"]
API_VERSION = "1.41"
PASSED = "passed"


def prepare(out: Path) -> Path:
    """The suite's own virtual environment below `out`; returns its Python."""
    python = out / "venv/bin/python"
    if not python.exists():
        subprocess.run(["python3", "-m", "venv", str(out / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINS], check=True)
    return python


def clean_home(out: Path) -> Path:
    """A new HOME: what a run leaves there (contexts) would fail the next."""
    home = out / "home"
    shutil.rmtree(home, ignore_errors=True)
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text("{}")
    return home


def docker(socket: Path, *arguments: str) -> None:
    subprocess.run(["docker", "-H", f"unix://{socket}", *arguments], check=True, capture_output=True)


def tag_images(socket: Path) -> None:
    """Some tests untag what others need: start each run with every name there."""
    for name in TAGS:
        docker(socket, "tag", "busybox:latest", name)


def run(
    python: Path, socket: Path, out: Path, name: str, tests: Iterable[str] = ("tests/integration",)
) -> dict[str, str]:
    """Run the suite (or some tests of it) against `socket`; returns test id to outcome. Log and XML are in `out`."""
    work = out / f"work-{name}"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(SUITE, work)
    shutil.rmtree(work / "docker")  # the installed one is tested
    tag_images(socket)
    report = out / f"{name}.xml"
    report.unlink(missing_ok=True)
    Path("/var/run/docker.sock").touch()
    pytest = [str(python), "-m", "pytest", *tests, "-v", "-p", "no:cacheprovider", "--timeout", "90"]
    pytest += ["--deselect", DESELECT, "--junitxml", str(report)]
    bind = ["sh", "-c", 'mount --bind "$0" /var/run/docker.sock && exec "$@"', str(socket)]
    environment = {
        **os.environ,
        "HOME": str(clean_home(out)),
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_TEST_API_VERSION": API_VERSION,
    }
    with (out / f"{name}.log").open("w") as log:
        subprocess.run(
            ["unshare", "-m", "--propagation", "private", *bind, *pytest],
            cwd=work,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    """`module::Class::test` to passed, failed, error or skipped, from a JUnit report."""
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        ident = f"{case.get('classname', '').removeprefix('tests.integration.').replace('.', '::')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcome = next((kind for kind in ("failure", "error", "skipped") if kind in kinds), PASSED)
        found[ident] = "failed" if outcome == "failure" else outcome
    return found


def path_of(ident: str) -> str:
    """The path by which pytest selects a test id."""
    *modules, test = ident.split("::")
    cut = next(i for i, part in enumerate(modules) if part.endswith("_test"))
    return "::".join(["tests/integration/" + "/".join(modules[: cut + 1]) + ".py", *modules[cut + 1 :], test])


def differences(bare: Mapping[str, str], cluster: Mapping[str, str]) -> list[str]:
    """Ids of the tests that pass on the bare engine and not on the cluster."""
    return sorted(i for i, outcome in bare.items() if outcome == PASSED and cluster.get(i) != PASSED)


def exceptions() -> dict[str, str]:
    """Pattern to reason."""
    lines = [line.split("|", 1) for line in EXCEPTIONS.read_text().splitlines() if line and not line.startswith("#")]
    return {pattern.strip(): reason.strip() for pattern, reason in lines}


def excepted(ident: str, known: Mapping[str, str]) -> str | None:
    """Why a test may fail on a cluster, or None."""
    return next((reason for pattern, reason in known.items() if fnmatch.fnmatchcase(ident, pattern)), None)
