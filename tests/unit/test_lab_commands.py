"""What a lab would run, and what it says of a machine that lacks a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from drover.errors import MissingTool, NotFound, Unavailable
from drover.lab import Lab, LabHost, cluster, engine, host, tools, topology
from drover.lab.lab import labs


@pytest.fixture
def first(tmp_path: Path) -> LabHost:
    lab = topology.plan("demo", 2, base=tmp_path)
    return LabHost(lab, lab.hosts[0])


def test_an_engine_shares_no_directory_and_stays_in_its_cgroup() -> None:
    argv = engine.dockerd_argv(Path("/labs/demo/h1"), "/drover-lab/demo/h1")
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert options["--data-root"] == "/labs/demo/h1/data"
    assert options["--host"] == "unix:///labs/demo/h1/engine/docker.sock"
    assert options["--cgroup-parent"] == "/drover-lab/demo/h1"
    assert options["--exec-opt"] == "native.cgroupdriver=cgroupfs"


def test_a_command_joins_the_cgroup_before_it_enters_the_namespaces() -> None:
    inside = [*host.namespaces_argv("dl-demo-h1", 42), "ip", "addr"]
    argv = host.join_argv(Path("/cg/demo/h1/init/cgroup.procs"), inside)
    assert argv[:2] == ["sh", "-c"]
    assert argv[3] == "/cg/demo/h1/init/cgroup.procs"
    assert argv[4:] == [
        "nsenter",
        "--net=/run/netns/dl-demo-h1",
        "--mount=/proc/42/ns/mnt",
        "--uts=/proc/42/ns/uts",
        "--",
        "ip",
        "addr",
    ]


def test_a_host_founds_the_cluster_with_its_own_files(first: LabHost) -> None:
    argv = cluster.init_argv(first)
    assert Path(argv[0]).name == "drover"
    assert argv[1] == "init"
    assert argv[-1] == "--no-service"
    options = dict(zip(argv[2:-1:2], argv[3:-1:2], strict=True))
    assert options == {
        "--name": "h1",
        "--address": "198.18.0.1",
        "--engine": f"unix://{first.docker_socket}",
        "--state-dir": str(first.state_dir),
        "--run-dir": str(first.run_dir),
        "--shared-volumes": str(first.lab.shared_volumes),
    }


def test_the_others_join_the_first_with_the_token(first: LabHost) -> None:
    second = LabHost(first.lab, first.lab.hosts[1])
    argv = cluster.join_argv(second, first, "secret")
    assert argv[1:5] == ["join", "198.18.0.1", "--token", "secret"]
    assert argv[argv.index("--name") + 1] == "h2"
    assert cluster.daemon_argv(second)[1:] == ["daemon", "--state-dir", str(second.state_dir)]


def test_docker_is_pointed_at_the_gateway_and_without_a_cluster_at_the_engine(tmp_path: Path) -> None:
    for with_cluster, socket in ((True, "run/docker.sock"), (False, "engine/docker.sock")):
        lab = topology.plan("demo", 1, base=tmp_path, cluster=with_cluster)
        environment = LabHost(lab, lab.hosts[0]).environment()
        assert environment["DOCKER_HOST"] == f"unix://{tmp_path}/demo/h1/{socket}"
        assert environment["DROVER_HOST"] == f"unix://{tmp_path}/demo/h1/run/drover.sock"
        assert environment["DROVER_LAB"] == "demo/h1"


def test_a_host_does_not_inherit_another_engine(first: LabHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DOCKER_TLS_VERIFY", "DOCKER_CONTEXT", "DROVER_HOST"):
        monkeypatch.setenv(variable, "elsewhere")
    environment = first.environment()
    assert "DOCKER_TLS_VERIFY" not in environment
    assert "DOCKER_CONTEXT" not in environment
    assert environment["DROVER_HOST"] == f"unix://{first.drover_socket}"


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(MissingTool) as caught:
        tools.require(["dockerd", "nft", "etcd", "busybox"])
    assert "busybox-static docker.io etcd-server nftables" in caught.value.hint
    with pytest.raises(MissingTool) as caught:
        tools.find("mmdebstrap")
    assert "package mmdebstrap" in caught.value.hint


def test_a_failed_program_speaks_for_itself() -> None:
    with pytest.raises(Exception, match=r"ls.*/nowhere.*No such file"):
        tools.run(["ls", "/nowhere"])
    assert tools.run(["ls", "/nowhere"], check=False).returncode != 0


def test_a_socket_without_a_listener_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        engine.request(tmp_path / "docker.sock", "GET", "/_ping")
    assert engine.answers(tmp_path / "docker.sock") is False
    assert engine.version(tmp_path / "docker.sock") is None


def test_opening_a_lab_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        Lab.open("demo", base=tmp_path)
    assert "drover lab up" in caught.value.hint


def test_labs_are_found_by_their_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lab = topology.plan(name, 1, base=tmp_path)
        lab.directory.mkdir()
        lab.file.write_bytes(topology.encode(lab))
    (tmp_path / "other").mkdir()
    assert [lab.name for lab in labs(tmp_path)] == ["one", "two"]
    assert [host.name for host in Lab.open("two", base=tmp_path).hosts] == ["h1"]
