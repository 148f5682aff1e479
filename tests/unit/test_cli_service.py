"""The systemd unit and the docker context, with stand-ins for `systemctl` and `docker` that write down their calls."""

import asyncio
import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from api_world import World, world

from drover.cli import contexts, enrol
from drover.cli.client import Client
from drover.daemon import service
from drover.daemon.config import HostConfig
from drover.errors import DeadlineExceeded, DroverError, Unavailable


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins write; `fail` beside it makes them fail. The unit goes to a temporary directory."""
    written, programs = tmp_path / "calls", tmp_path / "bin"
    programs.mkdir()
    written.touch()
    for name in ("systemctl", "docker"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{written}\n[ ! -e {tmp_path}/fail ] || {{ echo no >&2; exit 1; }}\n'
            f'[ "$2" != inspect ] || cat {tmp_path}/context\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(service, "UNIT_PATH", tmp_path / service.UNIT)
    monkeypatch.setattr(service, "SYSTEMD_RUNS", tmp_path)
    return written


def config(directory: Path) -> HostConfig:
    return HostConfig(
        name="h1", id="x", index=1, address="127.0.0.1", cluster_name="test",
        state_dir=str(directory / "h1"), run_dir=str(directory), engine=f"unix://{directory}/no-engine.sock",
    )  # fmt: skip


def test_the_unit_is_installed_started_and_removed(calls: Path, tmp_path: Path) -> None:
    service.install_service(config(tmp_path))
    assert service.UNIT_PATH.read_text() == service.unit_text(config(tmp_path))
    assert service.remove_service()
    assert not service.UNIT_PATH.exists()
    assert not service.remove_service()
    assert calls.read_text().splitlines() == [
        "systemctl daemon-reload",
        "systemctl enable --now drover.service drover-shutdown.service",
        "systemctl disable --now drover.service",
        "systemctl disable --now drover-shutdown.service",
        "systemctl daemon-reload",
    ]


def test_a_failing_systemctl_is_said(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(DroverError, match="`systemctl daemon-reload` failed: no"):
        service.install_service(config(tmp_path))


async def test_init_waits_until_the_daemon_answers(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world(tmp_path) as api:
        this = msgspec.structs.replace(api.machine("h1"), no_service=False, docker_context=True)
        await asyncio.to_thread(enrol.finish, this, config(tmp_path))
    shown = capsys.readouterr()
    assert f"Installed and started:   {service.UNIT_PATH}\n" in shown.out
    assert "Use docker with it:      docker context use drover\n" in shown.out
    assert "there is no Docker Engine at" in shown.err
    assert await asyncio.to_thread(calls.read_text) == (
        "systemctl daemon-reload\nsystemctl enable --now drover.service drover-shutdown.service\n"
        f"docker context create drover --docker host=unix://{tmp_path}/docker.sock\n"
    )


def test_a_daemon_that_does_not_come_up_is_said(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "START_DEADLINE_S", 0.0)
    this = msgspec.structs.replace(World(tmp_path).machine("h1"), no_service=False)
    with pytest.raises(DeadlineExceeded, match="does not serve") as caught:
        enrol.finish(this, config(tmp_path))
    assert "journalctl" in caught.value.hint


def test_a_docker_context_that_cannot_be_made_is_only_noted(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail").touch()
    this = msgspec.structs.replace(World(tmp_path).machine("h1"), docker_context=True)
    enrol.finish(this, config(tmp_path))
    assert "note: the docker context was not made: no" in capsys.readouterr().err


def test_the_docker_context_that_leads_here_is_removed(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "context").write_text(f"unix://{tmp_path}/docker.sock\n")
    assert contexts.remove(config(tmp_path))
    assert calls.read_text().splitlines()[-1] == "docker context rm --force drover"


@pytest.mark.parametrize("trouble", ["another's", "none", "no docker"])
def test_no_other_docker_context_is_removed(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    (tmp_path / "context").write_text("unix:///run/elsewhere/docker.sock\n")
    if trouble == "none":
        (tmp_path / "fail").touch()
    if trouble == "no docker":
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not contexts.remove(config(tmp_path))
    assert "docker context rm" not in calls.read_text()


class _Silly(http.server.BaseHTTPRequestHandler):
    """Answers what no daemon would."""

    def do_GET(self) -> None:
        if self.path == "/cut":
            self.close_connection = True
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def silly(tmp_path: Path) -> Iterator[Client]:
    path = str(tmp_path / "silly.sock")
    with socketserver.ThreadingUnixStreamServer(path, _Silly) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Client(f"unix://{path}", deadline_s=5)
        finally:
            server.shutdown()
            thread.join()


def test_what_is_no_daemon_is_said(silly: Client) -> None:
    with pytest.raises(Unavailable, match="is no drover daemon: status 200 and no JSON"):
        silly.get("/status")


def test_a_connection_that_ends_early_is_said(silly: Client) -> None:
    with pytest.raises(Unavailable, match="ended the call"):
        silly.get("/cut")


@pytest.mark.parametrize(
    ("error", "says"), [(PermissionError(), "you may not use"), (TimeoutError(), "did not answer in time")]
)
def test_each_way_not_to_reach_a_daemon_is_said(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("drover.cli.client._UnixConnection.connect", broken)
    with pytest.raises(Unavailable, match=says):
        Client("unix:///x").get("/status")
