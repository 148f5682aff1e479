"""What stock docker CLIs do on the cluster, at the gateway of a container's host and at others' (table in `stock`)."""

from __future__ import annotations

import io
import select
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from stock import BENCHES, Bench, client_major, docker_program, fetched_from

from drover.lab import Lab
from drover.lab.clients import Docker, Ran
from drover.lab.processes import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture(params=BENCHES, ids=[row[0] for row in BENCHES])
def bench(request: pytest.FixtureRequest, cluster: Lab) -> Iterator[Bench]:
    _, major, at, home = request.param
    bench = Bench(cluster, docker_program(major), at, home)
    yield bench
    bench.clean()


def test_run_passes_on_output_errors_and_status(bench: Bench) -> None:
    ran = bench.docker.run("run", "--rm", *bench.there, "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.status, ran.out, ran.err) == (7, "out\n", "err\n")
    assert bench.docker("ps", "-aq", "--filter", f"label=bench={bench.mark}") == ""


def test_run_reads_standard_input_to_its_end(bench: Bench) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    assert bench.docker.run("run", "--rm", "-i", *bench.there, "busybox", "cat", stdin=text).out == text


def test_run_on_a_terminal(bench: Bench) -> None:
    script = 'test -t 0 && echo ready; read word; echo "got $word"; exit 3'
    status, shown = bench.terminal(
        "run", "--rm", "-it", *bench.there, "busybox", "sh", "-c", script, typed="hello\n", until="ready"
    )
    assert status == 3
    assert "got hello" in shown


def test_run_detached_and_wait(bench: Bench) -> None:
    name = bench.name()
    ident = bench.docker("run", "-d", "--name", name, *bench.there, "busybox", "sh", "-c", "sleep 0.5; exit 5")
    assert bench.docker("wait", name) == "5"
    assert bench.inspect(name, "{{.Id}} {{.State.ExitCode}} {{.Name}}") == f"{ident} 5 /{name}"
    assert bench.host_of(name) == bench.home


def test_the_default_hostname_is_the_short_id(bench: Bench) -> None:
    name = bench.up()
    assert bench.docker("exec", name, "hostname") == bench.inspect(name, "{{.Id}}")[:12]


def test_exec(bench: Bench) -> None:
    name = bench.up()
    assert bench.docker("exec", "-i", name, "cat", stdin="given") == "given"
    assert bench.docker("exec", "-e", "WORD=set", "-w", "/tmp", name, "sh", "-c", "echo $WORD $PWD") == "set /tmp"
    assert bench.docker.run("exec", name, "sh", "-c", "echo bad >&2; exit 4").status == 4
    status, shown = bench.terminal("exec", "-it", name, "sh", typed="echo $((6*7)); exit\n", until="#")
    assert status == 0
    assert "42" in shown


def test_logs(bench: Bench) -> None:
    name = bench.up(command=("sh", "-c", "echo one; echo two >&2; sleep 1; echo three"))
    followed = bench.docker.run("logs", "-f", name)
    assert (followed.out, followed.err) == ("one\nthree\n", "two\n")
    assert bench.docker("logs", "--tail", "1", name) == "three"
    assert bench.docker.run("logs", "-t", name).out.split()[1::2] == ["one", "three"]


def test_copy_in_and_out(bench: Bench, tmp_path: Path) -> None:
    name = bench.up()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("content\n")
    bench.docker("cp", str(tmp_path / "dir"), f"{name}:/tmp/in")
    assert bench.docker("exec", name, "cat", "/tmp/in/file") == "content"
    bench.docker("cp", f"{name}:/tmp/in", str(tmp_path / "out"))
    assert (tmp_path / "out/file").read_text() == "content\n"
    missing = bench.docker.run("cp", f"{name}:/nowhere", str(tmp_path))
    assert missing.status == 1
    assert "/nowhere" in missing.err


def test_build_classic_and_run_at_home(bench: Bench, tmp_path: Path) -> None:
    _check_build(bench, tmp_path, "0")


def test_build_with_buildkit_and_run_at_home(bench: Bench, tmp_path: Path) -> None:
    if client_major(bench.docker.argv[0]) >= 23 and bench.docker.run("buildx", "version").status != 0:
        pytest.skip("this docker CLI has no buildx, which it needs for BuildKit")
    _check_build(bench, tmp_path, "1")


def test_build_on_a_host_without_the_base_image(cluster: Lab, tmp_path: Path) -> None:
    bench = Bench(cluster, docker_program(20), "h3", "h3")
    base, derived = bench.name("base"), bench.name("derived")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM busybox\nRUN echo {base} >/base\n")
    Bench(cluster, docker_program(20), "h1", "h1").docker("build", "-t", base, str(tmp_path), timeout_s=120)
    dockerfile.write_text(f"FROM {base}\nRUN true\n")
    bench.docker("build", "-t", derived, str(tmp_path), timeout_s=120)
    bench.docker("rmi", derived, base)


def _check_build(bench: Bench, context: Path, buildkit: str) -> None:
    bench.docker("run", "--rm", "--label", f"drover.constraint=host=={bench.at}", "busybox", "true")
    (context / "word").write_text("built\n")
    (context / "Dockerfile").write_text(
        'FROM busybox\nARG TAIL\nCOPY word /word\nRUN echo $TAIL >>/word\nCMD ["cat", "/word"]\n'
    )
    tag = bench.name("image")
    argv = ("build", "-t", tag, "--build-arg", "TAIL=here", str(context))
    built = bench.docker.run(*argv, env={"DOCKER_BUILDKIT": buildkit}, timeout_s=120)
    assert built.status == 0, built.words
    assert bench.docker("run", "--rm", *bench.there, tag) == "built\nhere"
    bench.docker("rmi", tag)
    assert bench.docker.run("image", "inspect", tag).status == 1


def test_commit(bench: Bench) -> None:
    name, tag = bench.up(), bench.name("image")
    bench.docker("exec", name, "sh", "-c", "echo kept >/kept")
    ident = bench.docker("commit", "--change", 'CMD ["cat", "/kept"]', name, tag)
    assert bench.docker("image", "inspect", "--format", "{{.Id}}", tag) == ident
    assert bench.docker("run", "--rm", *bench.there, tag) == "kept"
    bench.docker("rmi", tag)


def test_save_load_and_tag(bench: Bench, tmp_path: Path) -> None:
    tag, archive = bench.name("image"), tmp_path / "image.tar"
    bench.docker("tag", "busybox", f"{tag}:one")
    bench.docker("save", "-o", str(archive), f"{tag}:one")
    bench.docker("rmi", f"{tag}:one")
    assert bench.docker("images", "-q", tag) == ""
    assert f"{tag}:one" in bench.docker("load", "-i", str(archive))
    assert bench.docker("images", "--format", "{{.Tag}}", tag) == "one"
    assert bench.docker("run", "--rm", *bench.there, f"{tag}:one", "echo", "loaded") == "loaded"
    bench.docker("rmi", f"{tag}:one")


def test_export_and_import(bench: Bench, tmp_path: Path) -> None:
    name, tag, archive = bench.up(), bench.name("image"), tmp_path / "root.tar"
    bench.docker("exec", name, "sh", "-c", "echo exported >/exported")
    bench.docker("export", "-o", str(archive), name)
    with tarfile.open(archive) as tar:
        assert "exported" in tar.getnames()
    bench.docker("import", str(archive), tag)
    assert bench.docker("run", "--rm", *bench.there, tag, "cat", "/exported") == "exported"
    bench.docker("rmi", tag)


def test_events_tell_of_a_container_by_its_cluster_id(bench: Bench) -> None:
    began = str(int(time.time()) - 1)
    name = bench.up(command=("true",))
    ident = bench.inspect(name, "{{.Id}}")
    bench.docker("wait", name)
    bench.docker("rm", name)
    form = ("--format", "{{.Action}} {{.ID}}", "--filter", f"container={name}")
    told = bench.docker("events", "--since", began, "--until", str(int(time.time()) + 1), *form).splitlines()
    assert [line for line in told if line.split()[0] in ("create", "start", "die", "destroy")] == [
        f"{action} {ident}" for action in ("create", "start", "die", "destroy")
    ]


def test_events_are_told_while_they_happen(bench: Bench) -> None:
    name = bench.name()
    watching = bench.docker.start("events", "--filter", f"container={name}", "--filter", "event=start")
    try:
        assert watching.stdout is not None
        stream = watching.stdout
        wait_until(lambda: _started_anew(bench, name) and _readable(stream), "an event", deadline_s=60)
        assert name in stream.readline()
    finally:
        watching.kill()
        watching.communicate()


def _started_anew(bench: Bench, name: str) -> bool:
    """Start a container of that name, and remove it: the watcher may not have been there for the last one."""
    bench.docker("run", "--rm", "--name", name, *bench.there, "busybox", "true")
    return True


def _readable(stream: IO[str]) -> bool:
    return bool(select.select([stream], [], [], 0.5)[0])


def test_top_stats_diff_and_port(bench: Bench) -> None:
    name = bench.up("-p", "80")
    assert "sleep 1000" in bench.docker("top", name)
    assert bench.docker("stats", "--no-stream", "--format", "{{.Name}}", name) == name
    bench.docker("exec", name, "touch", "/tmp/new")
    assert "A /tmp/new" in bench.docker("diff", name)
    assert bench.docker("port", name, "80").splitlines()[0].startswith("0.0.0.0:")


def test_update_and_rename(bench: Bench) -> None:
    name, renamed = bench.up(), bench.name("renamed")
    bench.docker("update", "--memory", "64m", "--memory-swap", "64m", name)
    assert bench.inspect(name, "{{.HostConfig.Memory}}") == str(64 * 1024 * 1024)
    bench.docker("rename", name, renamed)
    assert not bench.exists(name)
    assert bench.docker("exec", renamed, "echo", "same") == "same"


def test_kill_stop_start_restart_pause(bench: Bench) -> None:
    trap = 'trap "echo hup" HUP; trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    name = bench.up(command=("sh", "-c", trap))
    wait_until(lambda: "ready" in bench.docker("logs", name), "the trap")
    bench.docker("kill", "-s", "HUP", name)
    wait_until(lambda: "hup" in bench.docker("logs", name), "the signal")
    bench.docker("pause", name)
    assert bench.inspect(name, "{{.State.Status}}") == "paused"
    bench.docker("unpause", name)
    bench.docker("stop", name)
    assert bench.inspect(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 9"
    bench.docker("start", name)
    first = bench.inspect(name, "{{.State.StartedAt}}")
    bench.docker("restart", "-t", "0", name)
    assert bench.inspect(name, "{{.State.Running}}") == "true"
    assert bench.inspect(name, "{{.State.StartedAt}}") != first


def test_create_then_start_attached(bench: Bench) -> None:
    name = bench.name()
    bench.docker("create", "-i", "--name", name, *bench.there, "busybox", "sh", "-c", "cat; exit 6")
    ran = bench.docker.run("start", "-ai", name, stdin="typed\n")
    assert (ran.status, ran.out) == (6, "typed\n")


def test_attach(bench: Bench) -> None:
    name = bench.up("-i", command=("sh", "-c", 'read word; echo "attached: $word"; exit 8'))
    attached = bench.docker.start("attach", name)
    try:
        # Its input stays open: an engine may drop the last words of a container whose client has ended its own.
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write("hello\n")
        attached.stdin.flush()
        assert attached.stdout.read() == "attached: hello\n"
        assert attached.wait(30) == 8
    finally:
        attached.kill()
        attached.communicate()


def test_networks(bench: Bench) -> None:
    network, server, other = bench.name("net"), bench.up(), bench.name()
    bench.docker("network", "create", "--subnet", "10.77.0.0/24", network)
    try:
        bench.docker("network", "connect", "--alias", "server", "--ip", "10.77.0.10", network, server)
        argv = ("--network", network, "--label", "drover.constraint=host==h1", "--label", f"bench={bench.mark}")
        bench.docker("run", "-d", "--name", other, *argv, "busybox", "sleep", "1000")
        for target in ("10.77.0.10", "server", server):
            assert "1 packets received" in bench.docker("exec", other, "ping", "-c1", "-W5", target), target
        assert set(
            bench.docker("network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network).split()
        ) == {
            server,
            other,
        }
        in_use = bench.docker.run("network", "rm", network)
        assert in_use.status == 1
        assert "has active endpoints" in in_use.err
        bench.docker("network", "disconnect", network, server)
        assert bench.docker.run("exec", other, "ping", "-c1", "-W1", "10.77.0.10").status == 1
    finally:
        bench.clean()
        bench.docker("network", "rm", network)
    assert bench.docker("network", "ls", "-q", "--filter", f"name={network}") == ""


def test_volumes_share_data(bench: Bench) -> None:
    volume = bench.name("vol")
    assert bench.docker("volume", "create", "--label", "made=here", volume) == volume
    write = ("sh", "-c", "echo data >/data/file")
    bench.docker("run", "--rm", *bench.there, "-v", f"{volume}:/data", "busybox", *write)
    assert bench.docker("run", "--rm", "-v", f"{volume}:/data:ro", "busybox", "cat", "/data/file") == "data"
    assert bench.docker("volume", "inspect", "--format", "{{.Labels.made}}", volume) == "here"
    keeper = bench.up("-v", f"{volume}:/data")
    in_use = bench.docker.run("volume", "rm", volume)
    assert in_use.status == 1
    assert "volume is in use" in in_use.err
    bench.docker("rm", "-f", keeper)
    bench.docker("volume", "rm", volume)
    assert volume not in bench.docker("volume", "ls", "-q").split()
    bench.docker("run", "--rm", *bench.there, "-v", f"{volume}-2:/data", "busybox", "true")
    bench.docker("volume", "rm", f"{volume}-2")


def test_volumes_from_and_the_network_of_another_container(bench: Bench) -> None:
    name = bench.up("-v", "/shared")
    bench.docker("exec", name, "sh", "-c", "echo mine >/shared/file")
    mark = ("--label", f"bench={bench.mark}")
    assert bench.docker("run", "--rm", *mark, "--volumes-from", name, "busybox", "cat", "/shared/file") == "mine"
    bench.docker("exec", "-d", name, "nc", "-l", "-p", "7777", "-e", "echo", "neighbour")
    reach = ("run", "--rm", *mark, "--network", f"container:{name}", "busybox", "nc", "-w", "2", "127.0.0.1", "7777")
    assert bench.docker(*reach) == "neighbour"


def test_published_ports_answer_at_the_host(bench: Bench) -> None:
    page = "mkdir /www; echo page >/www/index.html; exec httpd -f -h /www"
    name = bench.up("-p", "8081:80", command=("sh", "-c", page))
    home = bench.lab.host(bench.home)
    asking = next(host for host in bench.lab.hosts if host.name != bench.home)
    url = f"http://{home.address}:8081/"
    wait_until(lambda: fetched_from(asking, url) == "page", f"the page at {url}", deadline_s=30)
    assert bench.docker("port", name, "80").splitlines()[0] == "0.0.0.0:8081"
    second = bench.docker.run("run", "-d", *bench.there, "-p", "8081:80", "busybox", "true")
    assert second.status == 125
    assert "8081" in second.err


def test_prune(bench: Bench) -> None:
    done, volume, network = bench.up(command=("true",)), bench.name("vol"), bench.name("net")
    running = bench.up()
    bench.docker("wait", done)
    bench.docker("volume", "create", volume)
    bench.docker("network", "create", network)
    ident = bench.inspect(done, "{{.Id}}")
    assert ident in bench.docker("container", "prune", "-f", "--filter", f"label=bench={bench.mark}")
    assert network in bench.docker("network", "prune", "-f")
    assert volume in bench.docker("volume", "prune", "-f")
    assert "reclaimed" in bench.docker("image", "prune", "-f")
    assert bench.exists(running)
    assert not bench.exists(done)


def test_lists_and_filters(bench: Bench) -> None:
    name = bench.up("--label", "tier=front")
    mine = ("--filter", f"label=bench={bench.mark}")
    assert bench.docker("ps", *mine, "--filter", "label=tier=front", "--format", "{{.Names}}") == name
    assert bench.docker("ps", *mine, "--filter", "label=tier=back", "-q") == ""
    assert bench.docker("ps", *mine, "--filter", "status=exited", "-aq") == ""
    assert bench.docker("ps", *mine, "--filter", "ancestor=busybox", "-q", "--no-trunc") == bench.inspect(
        name, "{{.Id}}"
    )
    assert bench.docker("ps", *mine, "--filter", f"label=drover.host={bench.home}", "--format", "{{.Names}}") == name


def test_info_version_and_disk_usage(bench: Bench) -> None:
    assert bench.docker("version", "--format", "{{.Server.Version}}").startswith("20.")
    assert bench.docker("info", "--format", "{{.NCPU}}").isdigit()
    shown = bench.docker("info")
    assert all(f"{host.name}: {host.address}" in shown for host in bench.lab.hosts)
    assert "Images" in bench.docker("system", "df")


def test_a_tar_stream_is_copied_both_ways(bench: Bench, tmp_path: Path) -> None:
    name = bench.up()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("streamed")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    bench.docker("cp", "-", f"{name}:/tmp", stdin=buffer.getvalue().decode("latin-1"))
    assert bench.docker("exec", name, "cat", "/tmp/streamed") == "abc"
    assert "abc" in bench.docker("cp", f"{name}:/tmp/streamed", "-")


def test_all_gateways_tell_the_same(cluster: Lab) -> None:
    benches = [Bench(cluster, docker_program(20), host.name, "h2") for host in cluster.hosts]
    # Of the networks that every engine has, each gateway shows its own engine's: so not on one of those.
    network = benches[0].name("net")
    benches[0].docker("network", "create", network)
    name = benches[0].up("--network", network)
    try:
        assert len({bench.docker("inspect", name) for bench in benches}) == 1
        assert len({bench.docker("network", "inspect", network) for bench in benches}) == 1
        assert len({bench.docker("ps", "-aq", "--no-trunc") for bench in benches}) == 1
    finally:
        benches[0].clean()
        benches[0].docker("network", "rm", network)


def test_a_private_registry_is_used_with_the_clients_credentials(cluster: Lab, tmp_path: Path) -> None:
    """The registry is on h1's loopback: h1's engine, which the gateway there asks, is the only one that reaches it."""
    h1, program = cluster.host("h1"), str(Path(__file__).with_name("registry.py"))
    h1.spawn("registry", [sys.executable, program, "5123", "me", "secret"])
    docker, tag = Docker(h1.gateway_socket, docker_program(20)), "127.0.0.1:5123/team/tool:1"
    there = ("--label", "drover.constraint=host==h2")
    settings = {"DOCKER_CONFIG": str(tmp_path)}
    docker("tag", "busybox", tag)
    wait_until(lambda: "unauthorized" in _login(docker, settings, "wrong").words.lower(), "the registry's refusal")
    assert docker.run("push", tag, env=settings).status != 0  # nobody has logged in
    assert _login(docker, settings, "secret").status == 0
    assert docker.run("push", tag, env=settings).status == 0
    docker("rmi", tag)
    assert docker("images", "-q", tag) == ""
    refused = docker.run("run", "--rm", *there, tag, "true")
    assert (refused.status, "no basic auth credentials" in refused.err) == (125, True), refused.words
    ran = docker.run("run", "--rm", *there, tag, "echo", "pulled", env=settings, timeout_s=120)
    assert (ran.status, ran.out) == (0, "pulled\n"), ran.words
    assert f'"{tag}' in docker("inspect", "--type", "image", "--format", "{{json .RepoTags}}", tag)
    docker("rmi", tag)


def _login(docker: Docker, settings: dict[str, str], password: str) -> Ran:
    return docker.run("login", "-u", "me", "--password-stdin", "127.0.0.1:5123", stdin=password, env=settings)
