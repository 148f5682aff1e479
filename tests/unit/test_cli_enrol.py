"""`init`, `join`, `leave` and the daemon's files and unit, on temporary directories."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import World, world
from click.testing import CliRunner, Result

from drover.cli import enrol, leave
from drover.cli import main as cli
from drover.daemon import service
from drover.daemon.config import HostConfig, commit_bootstrap, load_bootstrap, load_config, save_config
from drover.errors import Conflict, Invalid, NotFound
from drover.store.memory import MemoryCluster
from drover.store.port import CommitConflict
from drover.trust import certificates


@pytest.fixture(autouse=True)
def purged(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The engines whose machine's networks were purged: this machine's own are left alone."""
    found: list[Path] = []
    monkeypatch.setattr(leave, "purge_networks", found.append)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def init(directory: Path, *more: str) -> Result:
    return run(
        "init", "--name", "h1", "--address", "127.0.0.1", "--no-service", "--store", "https://127.0.0.1:2379",
        "--state-dir", str(directory / "state"), "--run-dir", str(directory / "run"), *more,
    )  # fmt: skip


def test_init_writes_keys_configuration_and_the_first_record(tmp_path: Path) -> None:
    result = init(tmp_path, "--label", "storage=ssd", "--cluster-name", "prod")
    assert result.exit_code == 0, result.stderr
    config, host = load_config(tmp_path / "state"), load_bootstrap(tmp_path / "state")
    assert (config.name, config.cluster_name, config.store_managed) == ("h1", "prod", False)
    assert host is not None
    assert (host.labels, host.index, host.id) == ({"storage": "ssd"}, 1, config.id)
    assert {path.name for path in config.tls_dir.iterdir()} == set(certificates.FILES)
    assert stat.S_IMODE((tmp_path / "state" / "config.json").stat().st_mode) == 0o600


def test_init_says_what_to_do_next_and_how_to_undo_it(tmp_path: Path) -> None:
    shown = init(tmp_path).stdout
    assert "Cluster drover has its first host, h1 at 127.0.0.1." in shown
    assert f"drover daemon --state-dir {tmp_path}/state" in shown
    assert f"docker context create drover --docker host=unix://{tmp_path}/run/docker.sock" in shown
    assert f"drover leave --purge --state-dir {tmp_path}/state" in shown


def test_init_and_leave_answer_in_json_alone(tmp_path: Path, purged: list[Path]) -> None:
    result = init(tmp_path, "--json")
    made = json.loads(result.stdout)
    assert (made["cluster"], made["host"], made["address"]) == ("drover", "h1", "127.0.0.1")
    assert made["docker_host"] == f"unix://{tmp_path}/run/docker.sock"
    assert made["undo"] in result.stderr
    left = run("leave", "--purge", "--json", "--state-dir", str(tmp_path / "state"))
    assert json.loads(left.stdout) == {"cluster": "drover", "host": "h1", "left_on_disk": None}


def test_init_twice_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    before = (tmp_path / "state" / "tls" / "ca.crt").read_bytes()
    result = init(tmp_path)
    assert result.exit_code == 5
    assert "this machine is a host already" in result.stderr
    assert (tmp_path / "state" / "tls" / "ca.crt").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--name", "Bad Name"), "cannot be a host's name"),
        (("--address", "0.0.0.0"), "cannot be a host's address"),
        (("--engine", "tcp://192.0.2.1:2375"), "is no Unix socket"),
        (("--label", "storage"), "not of the form NAME=VALUE"),
        (("--store", "localhost"), "is no URL of an etcd"),
        (("--cluster-name", ""), "cannot be a cluster's name"),
    ],
)
def test_init_refuses_bad_options_before_it_writes(tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    result = init(tmp_path, *more)
    assert result.exit_code == 2
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_without_etcd_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drover.cli.enrol.shutil.which", lambda _: None)
    result = init(tmp_path, "--store", "")
    assert result.exit_code == 9
    assert "apt-get install etcd-server" in result.stderr


def test_leave_purge_undoes_init(tmp_path: Path, purged: list[Path]) -> None:
    init(tmp_path)
    result = run("leave", "--purge", "--state-dir", str(tmp_path / "state"))
    assert result.exit_code == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert len(purged) == 1


def test_leave_keeps_the_volumes_data_without_purge(tmp_path: Path) -> None:
    init(tmp_path)
    data = tmp_path / "state" / "volumes" / "db" / "data"
    data.parent.mkdir(parents=True)
    data.write_text("precious")
    result = run("leave", "--state-dir", str(tmp_path / "state"))
    assert f"Left on this machine:    {tmp_path}/state" in result.stdout
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == [data]


def test_purge_refuses_to_delete_what_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(tmp_path)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"nas:/data {tmp_path}/state/volumes/shared nfs rw 0 0\n")
    monkeypatch.setattr(leave, "MOUNTS", mounts)
    result = run("leave", "--purge", "--state-dir", str(tmp_path / "state"))
    assert result.exit_code == 5
    assert f"{tmp_path}/state/volumes/shared is mounted" in result.stderr
    assert load_config(tmp_path / "state").name == "h1"


def test_leave_without_a_cluster_says_so(tmp_path: Path) -> None:
    result = run("leave", "--state-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "belongs to no cluster" in result.stderr


def test_leave_with_a_silent_daemon_needs_force(tmp_path: Path) -> None:
    init(tmp_path)
    (tmp_path / "state" / "bootstrap.json").unlink()
    arguments = ("leave", "--purge", "--state-dir", str(tmp_path / "state"))
    refused = run(*arguments)
    assert refused.exit_code == 7
    assert "the cluster cannot be told that h1 leaves" in refused.stderr
    forced = run(*arguments, "--force")
    assert forced.exit_code == 0
    assert "drover host rm h1" in forced.stderr


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def config_of(api: World, name: str) -> HostConfig:
    """A host's configuration with its API where the world serves it."""
    config = HostConfig(
        name=name, id="x", index=1, address="127.0.0.1", cluster_name="test",
        state_dir=str(api.directory / name), run_dir=str(api.directory),
    )  # fmt: skip
    save_config(config)
    return config


async def test_join_and_leave_by_command(api: World) -> None:
    text = (await api.call("POST", "/tokens", {}))["token"]
    state, run_dir = str(api.directory / "h2"), str(api.directory / "h2run")
    joined = await asyncio.to_thread(
        run, "join", f"127.0.0.1:{api.port}", "--token", text, "--name", "h2", "--address", "192.0.2.2",
        "--no-service", "--state-dir", state, "--run-dir", run_dir,
    )  # fmt: skip
    assert joined.exit_code == 0, joined.stderr
    assert "h2 at 192.0.2.2 is a host of cluster test." in joined.stdout
    assert load_bootstrap(state) is None
    again = await asyncio.to_thread(run, "join", "127.0.0.1", "--token", text, "--state-dir", state)
    assert again.exit_code == 5
    config_of(api, "h1")
    left = await asyncio.to_thread(run, "leave", "--state-dir", str(api.directory / "h1"))
    assert left.exit_code == 0, left.stderr
    assert set(api.cluster.hosts) == {"h2"}


async def test_the_last_host_leaves_only_with_purge(api: World) -> None:
    config_of(api, "h1")
    refused = await asyncio.to_thread(run, "leave", "--state-dir", str(api.directory / "h1"))
    assert refused.exit_code == 5
    assert "h1 is the only host: if it leaves, the cluster ends" in refused.stderr
    assert (api.directory / "h1" / "config.json").exists()


async def test_a_damaged_token_is_refused_before_anything_is_sent(api: World) -> None:
    result = await asyncio.to_thread(run, "join", "127.0.0.1", "--token", "DROVER1-x", "--state-dir", "/nonexistent")
    assert result.exit_code == 2
    assert "not a join token" in result.stderr


async def test_the_first_record_is_committed_once(tmp_path: Path) -> None:
    init(tmp_path, "--cluster-name", "prod")
    config, store = load_config(tmp_path / "state"), MemoryCluster().client()
    assert await commit_bootstrap(store, config)
    assert (await store.snapshot()).hosts["h1"].id == config.id
    assert not await commit_bootstrap(store, config)


async def test_a_crash_after_the_first_commit_is_harmless(tmp_path: Path) -> None:
    init(tmp_path)
    config, store = load_config(tmp_path / "state"), MemoryCluster().client()
    kept = (tmp_path / "state" / "bootstrap.json").read_bytes()
    await commit_bootstrap(store, config)
    revision = (await store.snapshot()).revision
    (tmp_path / "state" / "bootstrap.json").write_bytes(kept)
    assert await commit_bootstrap(store, config)
    assert (await store.snapshot()).revision == revision
    assert load_bootstrap(tmp_path / "state") is None


async def test_a_store_of_another_cluster_is_not_taken_over(tmp_path: Path) -> None:
    store = MemoryCluster().client()
    for name in ("one", "two"):
        init(tmp_path / name)
    await commit_bootstrap(store, load_config(tmp_path / "one" / "state"))
    with pytest.raises(CommitConflict):
        await commit_bootstrap(store, load_config(tmp_path / "two" / "state"))


def test_a_damaged_configuration_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Invalid, match="is damaged"):
        load_config(tmp_path)
    with pytest.raises(NotFound, match="belongs to no cluster"):
        load_config(tmp_path / "none")


def test_the_unit_runs_the_daemon_and_keeps_its_directory(tmp_path: Path) -> None:
    usual = HostConfig(name="h1", id="x", index=1, address="192.0.2.1", cluster_name="c")
    text = service.unit_text(usual)
    assert "drover daemon --state-dir /var/lib/drover\n" in text
    assert "RuntimeDirectoryPreserve=yes" in text
    other = HostConfig(name="h1", id="x", index=1, address="192.0.2.1", cluster_name="c", run_dir=str(tmp_path))
    assert "RuntimeDirectory" not in service.unit_text(other)


@pytest.mark.parametrize("content", ["", "nonsense", "1", "999999999"])
def test_a_stale_pid_file_stops_nobody(tmp_path: Path, content: str) -> None:
    config = HostConfig(name="h1", id="x", index=1, address="192.0.2.1", cluster_name="c", run_dir=str(tmp_path))
    config.pid_file.write_text(content)
    assert service.running_daemon(config) is None
    assert not service.stop_daemon(config)


def test_a_running_daemon_is_stopped(tmp_path: Path) -> None:
    import subprocess
    import sys

    config = HostConfig(name="h1", id="x", index=1, address="192.0.2.1", cluster_name="c", run_dir=str(tmp_path))
    program = "import sys, time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, "drover", "daemon"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        config.pid_file.write_text(f"{process.pid}\n")
        assert service.running_daemon(config) == process.pid
        assert service.stop_daemon(config)
        assert process.wait(5) == -15


def test_an_address_is_found_toward_another_host() -> None:
    assert enrol.own_address("127.0.0.1") == "127.0.0.1"
    with pytest.raises(Invalid, match="cannot find out"):
        enrol.own_address("no.such.host.invalid")


def test_fresh_means_no_configuration(tmp_path: Path) -> None:
    this = World(tmp_path).machine("h2")
    enrol.check_fresh(this)
    (tmp_path / "h2").mkdir()
    (tmp_path / "h2" / "config.json").write_text("{}")
    with pytest.raises(Conflict, match="is a host already"):
        enrol.check_fresh(this)


def test_the_daemon_needs_a_cluster(tmp_path: Path) -> None:
    result = run("daemon", "--state-dir", str(tmp_path))
    assert result.exit_code == 4
    assert "run `drover init`" in result.stderr


def test_the_daemon_gets_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(tmp_path)
    started: list[HostConfig] = []
    monkeypatch.setattr("drover.daemon.daemon.run", started.append)
    assert run("daemon", "--state-dir", str(tmp_path / "state")).exit_code == 0
    assert started == [load_config(tmp_path / "state")]
