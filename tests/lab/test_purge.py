"""A host leaves its cluster, and nothing of Drover stays on it. The last file: their common cluster loses a host."""

from __future__ import annotations

import pytest

from drover.lab import Lab
from drover.lab.clients import Docker

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]
LEAVE_TIMEOUT_S = 120.0


def test_purge_leaves_nothing_of_ours(whole: Lab) -> None:
    host, docker = whole.hosts[2], Docker(whole.hosts[0].gateway_socket)
    there = ("--label", f"drover.constraint=host=={host.name}")
    docker("run", "-d", "--name", "last", *there, "-p", "8082:80", "busybox", "sleep", "1000")
    assert "drover" in host.exec(["nft", "list", "tables"]).stdout
    docker("rm", "-f", "last")
    host.exec(["drover", "leave", "--purge", "--force", "--state-dir", str(host.state_dir)], timeout_s=LEAVE_TIMEOUT_S)
    left = host.exec(["sh", "-c", "ip -br link; nft list tables; iptables-save; ip route"]).stdout
    for trace in ("dv4", "dx4", "drover", "10.128."):
        assert trace not in left, (trace, left)
