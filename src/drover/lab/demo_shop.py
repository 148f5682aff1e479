"""The demo's acts about a shop: a web server and a database, from a Compose file, and a client that never stops.

Theory of operation. The client (`lab.shopper`) orders through the web server, which writes to PostgreSQL; it is a
process on h1 that writes every answer down. `Watch` asks once in WATCH_S where the data is, and how old its copies are.
What both saw is the measure of each act, and the picture of the run.

    act                     fault                       promised
    open_shop               none                        the project runs, orders are acknowledged
    move_database           `drover move` under load    none of the acknowledged orders is lost, same address
    database_host_dies      its power is cut            same address, nothing lost but the newest, as displayed before
    dead_host_returns       it boots with its disk      it serves again, and keeps a copy again
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from drover.lab import shopper, tools
from drover.lab.shopper import Order
from drover.lab.stage import Stage
from drover.lab.story import Row, expect
from drover.lab.timeline import Event, Run, Sample, draw, longest_gap_s

WATCH_S = 0.2
WATCH_TIMEOUT_S = 2
ORDERS = 15
"""Acknowledged orders that show that the shop is open."""
OPEN_DEADLINE_S = 60.0
RECOVERY_DEADLINE_S = 90.0
COPIES_DEADLINE_S = 60.0
PORT = 8080
APP = "shop"
VOLUME = "shop_data"
COMPOSE_FILE = """\
services:
  db:
    image: postgres:15
    container_name: db
    command: [postgres, -c, recovery_init_sync_method=syncfs]
    environment: {POSTGRES_HOST_AUTH_METHOD: trust}
    volumes: ["data:/var/lib/postgresql/data"]
    labels: ["drover.constraint=host==~h1"]
    healthcheck: {test: [CMD, pg_isready, -q, -h, 127.0.0.1, -U, postgres], interval: 1s, retries: 60}
  web:
    image: shop-web
    container_name: web
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    labels: ["drover.constraint=host==~h1"]
    stop_grace_period: 1s
volumes:
  data:
    driver_opts: {replicas: "2", interval: 1s}
"""
_DOCKERFILE = """\
FROM postgres:15
COPY busybox /bin/busybox
COPY order /www/cgi-bin/order
ENTRYPOINT []
CMD ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
"""
_ORDER = """\
#!/bin/sh
export PGCONNECT_TIMEOUT=2
if stored=$(psql -h db -U postgres -Atqc "insert into orders values ($QUERY_STRING) returning n" 2>&1)
then printf 'Content-Type: text/plain\\r\\n\\r\\nordered %s\\n' "$stored"
else printf 'Status: 503 Service Unavailable\\r\\nContent-Type: text/plain\\r\\n\\r\\n%s\\n' "$stored"
fi
"""


class Watch:
    """Where the shop's data is, asked again and again of the first gateway's host."""

    def __init__(self, stage: Stage) -> None:
        self.samples: list[Sample] = []
        self._stage = stage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._stop.wait(WATCH_S):
            sample = look(self._stage)
            if sample is not None:
                self.samples.append(sample)


def look(stage: Stage) -> Sample | None:
    """The volume as the first gateway's host shows it now; None if it does not answer."""
    socket = str(stage.lab.host(stage.first).drover_socket)
    asked = ["curl", "-s", "-m", str(WATCH_TIMEOUT_S), "--unix-socket", socket, f"http://drover/volumes/{VOLUME}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    shown, at = json.loads(done.stdout), time.time()
    copied = [copy["synced_at"] for copy in shown["copies"]]
    return Sample(at=at, host=shown["host"], epoch=shown["epoch"], lag_s=max(at - max(copied), 0.0) if copied else None)


class Shop:
    """The shop while it is open: its client, its watch, and what happened to it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._book = stage.scratch / "orders.jsonl"
        self.events: list[Event] = []
        self.address = address_of(stage, "db")
        argv = [sys.executable, "-m", "drover.lab.shopper", f"127.0.0.1:{PORT}", str(self._book)]
        self._client = subprocess.Popen(stage.lab.host("h1").argv(argv))
        self.watch = Watch(stage)

    def note(self, words: str) -> float:
        """Something happens to the shop now: told, drawn, and its time returned."""
        self._stage.story.tell(words)
        self.events.append(Event(at=time.time(), words=words))
        return self.events[-1].at

    def orders(self) -> list[Order]:
        """All that the client sent until now, and was answered or refused."""
        return shopper.read(self._book) if self._book.exists() else []

    def acknowledged(self) -> list[Order]:
        return [order for order in self.orders() if order.ok]

    def more(self, what: str, deadline_s: float = OPEN_DEADLINE_S) -> None:
        """Until so many more orders than now are acknowledged that the shop is open, whatever it was before."""
        since = time.time()
        self._stage.until(
            lambda: sum(order.at >= since for order in self.acknowledged()) >= ORDERS or None, what, deadline_s
        )

    def lost(self) -> list[Order]:
        """The acknowledged orders that the database does not have."""
        acknowledged = self.acknowledged()
        stored = set(map(int, self._stage.client()("exec", "db", *_psql("select n from orders")).split()))
        return [order for order in acknowledged if order.number not in stored]

    def close(self) -> Run:
        """Send the client home; what was seen."""
        self._client.terminate()
        self._client.wait()
        self.watch.stop()
        return Run(self.orders(), self.watch.samples, self.events)


def _psql(statement: str) -> tuple[str, ...]:
    return ("psql", "-U", "postgres", "-Atqc", statement)


def address_of(stage: Stage, name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}"
    return stage.client()("inspect", "--format", form, name)


def open_shop(stage: Stage) -> None:
    with stage.story.promise("a web server and PostgreSQL, from a Compose file") as row:
        stage.docker("build", "-q", "-t", "shop-web", str(_web_context(stage.scratch / "web")))
        project = stage.scratch / "shop"
        project.mkdir(exist_ok=True)
        (project / "compose.yaml").write_text(COMPOSE_FILE)
        manifest = ("-f", str(project / "compose.yaml"), "--name", APP)
        stage.drover("plan", *manifest)
        stage.drover("deploy", "--strict", *manifest)
        stage.until(
            lambda: stage.client()("exec", "db", *_psql("create table orders (n bigint primary key)")) == "" or None,
            "db",
        )
        stage.shop = Shop(stage)
        row.figure = f"db and web on {', '.join(sorted(set(stage.host_of('db', 'web'))))}, db is {stage.shop.address}"
    with stage.story.promise("orders come in, and are written to disk"):
        stage.shop.more("the first orders")


def _web_context(context: Path) -> Path:
    """What the web server's image is built from."""
    context.mkdir()
    (context / "Dockerfile").write_text(_DOCKERFILE)
    (context / "order").write_text(_ORDER)
    (context / "order").chmod(0o755)
    shutil.copy(tools.find("busybox"), context / "busybox")
    return context


def _same_address(stage: Stage, shop: Shop) -> None:
    now = address_of(stage, "db")
    expect(now == shop.address, f"the address {shop.address}", now)


def move_database(stage: Stage) -> None:
    shop = stage.open_shop
    with stage.story.promise("the database moves to h2 while it is written, and nothing is lost") as row:
        begin = shop.note("drover move db --to h2")
        stage.drover("move", "db", "--to", "h2")
        shop.more("orders after the move")
        expect(stage.host_of("db") == ["h2"], "db on h2", stage.host_of("db"))
        lost = shop.lost()
        expect(not lost, "no acknowledged order lost", lost)
        gap_s = longest_gap_s(shop.orders(), begin, time.time())
        row.figure = f"0 of {len(shop.acknowledged())} orders lost, {gap_s:.2f} s of silence"
    with stage.story.promise("it has the same address and MAC on h2") as row:
        _same_address(stage, shop)
        row.figure = shop.address


def _copies_elsewhere(stage: Stage) -> None:
    """Until both other hosts have a copy of the data, and one of them an image to start it from."""

    def copied() -> bool | None:
        return len(_copies(stage)) >= 2 or None

    def spare_image() -> bool | None:
        others = (stage.engine(host).run("image", "inspect", "postgres:15") for host in ("h1", "h3"))
        return any(ran.status == 0 for ran in others) or None

    stage.until(copied, "copies of the data on both other hosts", COPIES_DEADLINE_S)
    stage.until(spare_image, "a spare image on another host", COPIES_DEADLINE_S)


def _copies(stage: Stage) -> list[str]:
    """The hosts that keep a copy of the shop's data."""
    shown = json.loads(stage.ask("volume", "inspect", VOLUME).out)
    return [copy["host"] for copy in shown["copies"]]


def database_host_dies(stage: Stage) -> None:
    shop = stage.open_shop
    with stage.story.promise("h2 dies under load: the database answers from another host") as row:
        _copies_elsewhere(stage)
        shop.more("orders while it is copied")
        shown = shop.watch.samples[-1]
        lag_s = shown.lag_s or 0.0
        stage.story.tell(f"on display: the newest copy of {VOLUME} is {lag_s:.1f} s behind")
        cut_at = shop.note("the power of h2 is cut")
        stage.lab.host("h2").kill()
        shop.more("orders after the power cut", RECOVERY_DEADLINE_S)
        home = stage.host_of("db")[0]
        gap_s = longest_gap_s(shop.orders(), cut_at, time.time())
        shop.note(f"db answers from {home}")
        row.figure = f"from {home}, {gap_s:.1f} s after the last answer"
    with stage.story.promise("only the newest orders are lost, within the lag on display") as row:
        _only_the_newest(shop, cut_at, lag_s, row)
    with stage.story.promise("it has the same address and MAC there") as row:
        _same_address(stage, shop)
        row.figure = shop.address


def _only_the_newest(shop: Shop, cut_at: float, lag_s: float, row: Row) -> None:
    """The copy was `lag_s` old when it was looked at, which is up to one look ago."""
    lost = shop.lost()
    bound_s = lag_s + WATCH_S
    oldest = min((order.answered_at for order in lost), default=cut_at)
    expect(oldest >= cut_at - bound_s, f"nothing lost from before {bound_s:.1f} s before the cut", lost[:3])
    row.figure = (
        f"{len(lost)} lost, the oldest {max(cut_at - oldest, 0):.1f} s before the cut; displayed lag {lag_s:.1f} s"
    )


def dead_host_returns(stage: Stage) -> None:
    shop = stage.open_shop
    with stage.story.promise("h2 comes back with its old disk, and is used again") as row:
        begin = shop.note("h2 boots again")
        stage.lab.host("h2").revive()
        stage.docker("run", "--rm", "-e", "constraint:host==h2", "busybox", "echo", "a new one on h2")
        stage.until(lambda: "h2" in _copies(stage) or None, "a copy on h2 again", COPIES_DEADLINE_S)
        row.figure = f"runs a container and keeps a copy of the data {time.time() - begin:.1f} s after power-on"
    with stage.story.promise("the shop never noticed, and nobody writes on h2"):
        shop.more("orders with h2 back")
        expect(stage.host_of("db") != ["h2"], "db where it was", stage.host_of("db"))


def shut_shop(stage: Stage) -> None:
    """Close it, and draw what happened."""
    shop = stage.open_shop
    with stage.story.promise("every order that was acknowledged since is there") as row:
        lost = shop.lost()
        run = shop.close()
        row.figure = f"{sum(order.ok for order in run.orders)} acknowledged, {len(lost)} lost in all"
        late = [order for order in lost if order.at > run.events[-1].at]
        expect(not late, "nothing lost after the recovery", late)
    if stage.picture is not None:
        stage.picture.parent.mkdir(parents=True, exist_ok=True)
        stage.picture.write_text(draw(run, "A shop: one move, one power cut. Each dot is an order"))
        stage.story.tell(f"drawn in {stage.picture}")
    stage.drover("rm", APP, "--volumes")
