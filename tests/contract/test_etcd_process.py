"""etcd as a child: what it is told, that it never outlives its daemon, and that its log stays bounded."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from etcd_cluster import LOOPBACK, member_config

from drover.daemon.etcd_process import EtcdProcess, MemberTls, arguments, bound_log, find_program, url
from drover.errors import MissingTool

PATIENCE_S = 10.0


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="has no etcd") as missing:
        find_program("etcd", "etcd-server")
    assert missing.value.hint == "install it: apt install etcd-server"


def test_with_tls_both_ports_ask_for_certificates(tmp_path: Path) -> None:
    files = MemberTls(ca=tmp_path / "ca.crt", certificate=tmp_path / "h.crt", key=tmp_path / "h.key")
    options = arguments(member_config(tmp_path, "h1", files))
    assert {"--client-cert-auth=true", "--peer-client-cert-auth=true"} <= set(options)
    assert all("http://" not in option for option in options)
    assert len({option.split("=")[0] for option in options}) == len(options)


def test_urls_bracket_ipv6() -> None:
    assert url("10.0.0.1", 4742) == "https://10.0.0.1:4742"
    assert url("fd00::1", 4742, secure=False) == "http://[fd00::1]:4742"


def test_a_log_is_cut_when_it_outgrew_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "etcd.log"
    with path.open("ab") as held_open:
        held_open.write(b"x" * 100)
        held_open.flush()
        bound_log(path, 200)
        assert path.stat().st_size == 100
        bound_log(path, 50)
        held_open.write(b"new")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "etcd.log.1").read_bytes() == b"x" * 100


DAEMON = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from etcd_cluster import member_config
from drover.daemon.etcd_process import EtcdProcess

async def main():
    member = EtcdProcess(member_config(Path(sys.argv[2]), "h1", None))
    await member.start()
    print(member.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.etcd
async def test_it_dies_with_its_daemon(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, here, str(tmp_path), stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    pid = int(await daemon.stdout.readline())
    assert running(pid)
    daemon.kill()
    await daemon.wait()
    async with asyncio.timeout(PATIENCE_S):
        while running(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def running(pid: int) -> bool:
    """A zombie runs no more, whoever its new parent is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.etcd
async def test_a_member_that_cannot_start_is_tried_again_until_stopped(tmp_path: Path) -> None:
    config = member_config(tmp_path, "h1", None)
    member = EtcdProcess(config)
    with socket.create_server((LOOPBACK, config.peer_port)):
        await member.start()
        async with asyncio.timeout(PATIENCE_S):
            while member.starts < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    await member.wipe()
    assert member.pid is None
    assert not config.data_dir.exists()
