"""`--json` of commands that change something: the daemon's answer and nothing else on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from drover.cli import main as cli
from drover.cli.client import Client
from drover.lab import lab as lab_module
from drover.lab.lab import HostStatus

VOLUME = {"name": "data", "filling": None, "message": "", "backup": {"due": False, "failure": "", "id": "b1"}}
OPTIONS = {"replicas_wanted": 1, "interval_s": 5.0, "size_wanted_bytes": 0, "sync": False}

COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("adapter apply -f FILE", {"applied_at": 1.0, "warnings": ["hm"]}),
    ("adapter rollback", {"applied_at": 1.0}),
    ("adapter show", {"text": "version: 1\n", "applied_at": 1.0}),
    ("address release 10.0.0.9", {"released": "10.0.0.9"}),
    ("events hook rm 1f2e", {"removed": "1f2e"}),
    ("volume update data --opt replicas=1", VOLUME | OPTIONS),
    ("volume snapshot data", {"snapshot": "s1"}),
    ("volume rollback data s1", VOLUME),
    ("volume clone data more", VOLUME),
    ("volume import data FILE", VOLUME),
    ("volume backup data --to /mnt", VOLUME),
    ("volume backup data --off", VOLUME),
    ("volume backup data --detach", VOLUME | {"backup": {"repository": "/mnt"}}),
    ("volume restore data", VOLUME),
    ("volume restore data --detach", VOLUME),
]


def run(text: str, *more: str) -> Result:
    return CliRunner().invoke(cli.main, [*text.split(), *more], catch_exceptions=False)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a daemon answers to everything; to be filled by the test."""
    given: dict[str, Any] = {}

    def upload(self: Client, path: str, pieces: Iterable[bytes]) -> dict[str, Any]:
        assert b"".join(pieces)
        return given

    monkeypatch.setattr(Client, "call", lambda *_, **__: given)
    monkeypatch.setattr(Client, "upload", upload)
    return given


@pytest.mark.parametrize(("command", "said"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_answer_is_all_there_is_on_standard_output(
    command: str, said: dict[str, Any], answer: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("version: 1\n")
    answer |= said
    words = command.replace("FILE", str(file))
    result = run(words, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, said)
    plain = run(words)
    assert plain.exit_code == 0
    assert not plain.stdout.startswith("{")


def test_a_removed_snapshot_is_named(answer: dict[str, Any]) -> None:
    assert json.loads(run("volume snapshot data --rm s1 --json").stdout) == {"removed": "s1"}


class FakeHost:
    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self._done = name, done

    def __getattr__(self, verb: str) -> Any:
        return lambda *arguments: self._done.append(" ".join([verb, self.name, *(one or "" for one in arguments)]))


class FakeLab:
    def __init__(self) -> None:
        self.done: list[str] = []

    def host(self, name: str) -> FakeHost:
        return FakeHost(name, self.done)

    def destroy(self) -> None:
        self.done.append("destroy")

    def status_of(self, name: str) -> HostStatus:
        return HostStatus(name, "10.0.0.2", "off", "cut", [], None, False)


@pytest.fixture
def fake_lab(monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    made = FakeLab()
    monkeypatch.setattr(lab_module.Lab, "open", lambda *_, **__: made)
    return made


@pytest.mark.parametrize("verb", ["kill", "revive", "cut", "heal", "freeze", "thaw"])
def test_a_fault_in_a_lab_answers_with_what_the_host_shows_then(verb: str, fake_lab: FakeLab) -> None:
    shown = json.loads(run(f"lab {verb} h2 --json").stdout)
    assert (shown["name"], shown["power"], shown["link"]) == ("h2", "off", "cut")
    assert [one.split()[:2] for one in fake_lab.done] == [[verb, "h2"]]
    assert run(f"lab {verb} h2").stdout == ""


def test_a_lab_that_is_gone_is_named(fake_lab: FakeLab) -> None:
    assert json.loads(run("lab down --name two --json").stdout) == {"removed": "two"}
    assert fake_lab.done == ["destroy"]
