"""The demo's acts on a healthy cluster. Each uses containers of its own, except that the first act's six stay."""

from __future__ import annotations

import filecmp
import re
import select
import subprocess
import time
from collections import Counter
from pathlib import Path

from drover.errors import DeadlineExceeded
from drover.lab.stage import HOST_FIELD, Stage, random_file, received_bytes
from drover.lab.story import expect

SIX = tuple(f"web{number}" for number in range(1, 7))
_FOLLOWED_LINES = 3
_FOLLOW_DEADLINE_S = 20.0
_COPY_BYTES = 1_000_000
_LAYER_BYTES = 250_000
_TICK = 'while :; do echo "tick of $0"; sleep 0.2; done'
_COMPOSE = """\
services:
  web:
    image: busybox
    command: ["sh", "-c", "mkdir -p /www; echo hello from web >/www/index.html; exec httpd -f -p 80 -h /www"]
    networks: {front: {aliases: [shop]}}
    labels: ["drover.constraint=host==h2"]
    stop_grace_period: 1s
  client:
    image: busybox
    command: ["sh", "-c", "while :; do echo client is here; sleep 1; done"]
    depends_on: [web]
    networks: [front]
    labels: ["drover.constraint=host==h3"]
    stop_grace_period: 1s
networks:
  front: {}
"""


def spread(stage: Stage) -> None:
    with stage.story.promise("six containers, two on each of three hosts") as row:
        for name in SIX:
            stage.docker("run", "-d", "--name", name, "busybox", "sh", "-c", _TICK, name)
        stage.docker("ps", "--format", f"table {{{{.Names}}}}\t{HOST_FIELD}\t{{{{.Status}}}}")
        counts = Counter(stage.host_of(*SIX))
        expect(counts == {"h1": 2, "h2": 2, "h3": 2}, "two on each host", dict(counts))
        row.figure = ", ".join(f"{host}: {count}" for host, count in sorted(counts.items()))


def elsewhere(stage: Stage) -> str:
    """One of the six that does not run on the host whose gateway is asked."""
    return next(name for name in SIX if stage.host_of(name) != [stage.first])


def work_with_them(stage: Stage) -> None:
    name = elsewhere(stage)
    with stage.story.promise("exec into a container on another host") as row:
        said = stage.docker("exec", name, "sh", "-c", "echo here is $HOSTNAME")
        expect("here is" in said, "the words of the container", said)
        row.figure = f"{name} on {stage.host_of(name)[0]}, through {stage.first}"
    with stage.story.promise("logs -f follows it"):
        stage.story.tell(f"$ docker logs -f --tail 1 {name}")
        lines = follow(stage, name)
        stage.story.show("\n".join(lines))
        expect(all(line == f"tick of {name}" for line in lines), f"ticks of {name}", lines)
    with stage.story.promise("cp in and out") as row:
        mine, back = stage.scratch / "mine", stage.scratch / "back"
        random_file(mine, _COPY_BYTES)
        stage.docker("cp", str(mine), f"{name}:/tmp/mine")
        stage.docker("cp", f"{name}:/tmp/mine", str(back))
        expect(filecmp.cmp(mine, back, shallow=False), "the same bytes back", f"{back.stat().st_size} bytes")
        row.figure = f"{_COPY_BYTES} bytes, identical"


def follow(stage: Stage, name: str) -> list[str]:
    """Some lines of `logs -f`, which is then left."""
    process = stage.client().start("logs", "-f", "--tail", "1", name)
    try:
        return _lines(process, _FOLLOWED_LINES)
    finally:
        process.kill()
        process.communicate()


def _lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """That many lines of a process's output. DeadlineExceeded if they do not come."""
    assert process.stdout is not None
    found = ""
    end = time.monotonic() + _FOLLOW_DEADLINE_S
    while found.count("\n") < count:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        piece = process.stdout.buffer.read1().decode() if readable else ""  # type: ignore[attr-defined]
        if not piece:
            raise DeadlineExceeded(f"only {found.count(chr(10))} of {count} lines came: {found!r}")
        found += piece
    return found.splitlines()[:count]


def build_and_run_elsewhere(stage: Stage) -> None:
    context = stage.scratch / "context"
    context.mkdir()
    random_file(context / "data", _LAYER_BYTES)
    (context / "Dockerfile").write_text(
        'FROM busybox\nCOPY data /data\nCMD ["sh", "-c", "echo app with; wc -c /data"]\n'
    )
    with stage.story.promise("an image is built through h1's gateway"):
        stage.docker("build", "-q", "-t", "app", str(context), host="h1")
    third = stage.lab.host("h3")
    with stage.story.promise("it runs on h3, only its new layer travelled") as row:
        before = received_bytes(third)
        said = stage.docker("run", "--rm", "-e", "constraint:host==h3", "app", host="h2")
        travelled = received_bytes(third) - before
        expect(str(_LAYER_BYTES) in said, f"{_LAYER_BYTES} bytes in the image", said)
        size = int(stage.client()("image", "inspect", "--format", "{{.Size}}", "app"))
        expect(travelled < size / 2, f"much less than the image's {size} bytes on the wire", travelled)
        row.figure = f"image {size / 1e6:.1f} MB, on the wire {travelled / 1e6:.2f} MB"


def constraints(stage: Stage) -> None:
    with stage.story.promise("a constraint is obeyed, and `drover why` says so") as row:
        stage.drover("host", "label", "h2", "storage=ssd")
        stage.docker("run", "-d", "--name", "db", "-e", "constraint:storage==ssd", "busybox", "sleep", "1000")
        expect(stage.host_of("db") == ["h2"], "db on h2", stage.host_of("db"))
        said = stage.drover("why", "db")
        expect("storage is not set" in said, "a reason against each other host", said)
        row.figure = re.sub(r"^Chosen:\s+", "", next(line for line in said.splitlines() if line.startswith("Chosen")))
    with stage.story.promise("an impossible wish is refused with a reason per host") as row:
        said = stage.refused("run", "-d", "--name", "tape", "-e", "constraint:storage==tape", "busybox", "true")
        reasons = re.findall(r"\b(h[123]): ", said)
        expect(reasons == ["h1", "h2", "h3"], "one reason each for h1, h2 and h3", said)
        row.figure = f"{len(reasons)} reasons"
    stage.docker("rm", "-f", "db")


def compose_project(stage: Stage) -> None:
    project = stage.scratch / "shop"
    project.mkdir()
    (project / "compose.yaml").write_text(_COMPOSE)
    try:
        _compose_up(stage, project)
        _compose_talk(stage)
    finally:
        with stage.story.promise("compose down removes it"):
            stage.compose(project, "down")
            left = stage.client()("ps", "-aq", "--filter", "label=com.docker.compose.project=shop")
            expect(not left, "nothing left of it", left)


def _compose_up(stage: Stage, project: Path) -> None:
    with stage.story.promise("compose up, ps, logs") as row:
        stage.compose(project, "up", "-d")
        expect("shop-web-1" in stage.compose(project, "ps"), "shop-web-1 among the services", "it is not there")
        stage.until(lambda: "client is here" in stage.client()("logs", "shop-client-1") or None, "a line of client")
        stage.compose(project, "logs", "--tail", "1", "client")
        hosts = stage.host_of("shop-web-1", "shop-client-1")
        expect(hosts == ["h2", "h3"], "web on h2 and client on h3", hosts)
        row.figure = "web on h2, client on h3, one network"


def _compose_talk(stage: Stage) -> None:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = stage.client()("inspect", "--format", form, "shop-web-1")
    with stage.story.promise("they talk across hosts, by address") as row:
        _fetch(stage, address)
        row.figure = address
    with stage.story.promise("and by the network's alias") as row:
        said = stage.docker("exec", "shop-client-1", "nslookup", "shop")
        expect(address in said, f"{address} as the address of shop", said)
        _fetch(stage, "shop")
        row.figure = f"shop is {address}"


def _fetch(stage: Stage, where: str) -> None:
    said = stage.docker("exec", "shop-client-1", "wget", "-qO-", f"http://{where}/")
    expect(said == "hello from web", "hello from web", said)
