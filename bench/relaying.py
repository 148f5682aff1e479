"""What relaying costs a daemon: processor seconds per GB through the gateway, and microseconds per call, without
engines. Processor time can be compared on a busy machine, where throughput cannot.

    python -m bench.relaying [--gb 1]

    client ---- gateway ------------------------ engine             "local"
    client ---- gateway --TLS-- tunnel --------- engine             "remote": the client's and the container's daemon

Each daemon is a process of its own with nothing but its relay. Client and engine speak like docker's: pieces of 32 KiB.

    row     what moves
    down    a chunked response (save, cp out, logs)
    up      a chunked request (cp in, load, build)
    both    a tunnel both ways at once (exec -i cat); its bytes count once
    call    a request with a small answer, the connection kept open
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from drover.daemon import heap
from drover.gateway.call import Call, Outcome, Relay
from drover.gateway.links import EngineLinks
from drover.gateway.server import GatewayServer
from drover.gateway.tunnel import TunnelServer
from drover.trust import certificates
from drover.trust.tls import client_context, server_context

PIECE = os.urandom(32 * 1024)
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
GB = 1_000_000_000
CALLS = 3000
_READ_BYTES = 256 * 1024
_spawn = multiprocessing.get_context("spawn")


# The engine: blocking, a thread per connection.


def _serve_engine(path: Path, ready: Any) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    ready.set()
    while True:
        accepted, _ = listening.accept()
        threading.Thread(target=_serve_one, args=(accepted,), daemon=True).start()


def _serve_one(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        while head := _head(peer):
            verb, _, count = head.split(b" ")[1][1:].partition(b"/")
            _ACTS[verb](peer, int(count))


def _head(peer: socket.socket) -> bytes:
    """One request's head; peeked, so that the body stays in the socket."""
    while seen := peer.recv(4096, socket.MSG_PEEK):
        end = seen.find(b"\r\n\r\n")
        if end >= 0:
            return peer.recv(end + 4)
    return b""


def _down(peer: socket.socket, pieces: int) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(pieces):
        peer.sendall(CHUNK)
    peer.sendall(b"0\r\n\r\n")


def _up(peer: socket.socket, pieces: int) -> None:
    _drain(peer, pieces * len(CHUNK) + 5)
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def _both(peer: socket.socket, pieces: int) -> None:
    peer.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    while data := peer.recv(len(PIECE)):
        peer.sendall(data)


def _call(peer: socket.socket, _count: int) -> None:
    body = b'{"Id": "%s"}' % (b"0" * 4000)
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


_ACTS: dict[bytes, Callable[[socket.socket, int], None]] = {b"down": _down, b"up": _up, b"both": _both, b"call": _call}


# The daemons.


def _serve_gateway(client: Path, engine: Path, tls_dir: Path, port: int, ready: Any) -> None:
    """A gateway before the engine's socket, or with a `port` before another daemon's tunnel."""

    async def handle(_call: Call) -> Outcome:
        return Relay(host="there")

    async def main() -> None:
        links = EngineLinks(
            str(engine),
            locate=lambda _host: ("127.0.0.1", port) if port else None,
            tls=client_context(tls_dir) if port else None,
            server_hostname=lambda _host: "127.0.0.1",
        )
        await GatewayServer(handle, links).listen_unix(client)
        ready.set()
        await asyncio.Event().wait()

    heap.keep_small()
    uvloop.run(main())


def _serve_tunnel(engine: Path, tls_dir: Path, port: Any, ready: Any) -> None:
    async def main() -> None:
        port.value = await TunnelServer(str(engine), server_context(tls_dir)).start("127.0.0.1", 0)
        ready.set()
        await asyncio.Event().wait()

    heap.keep_small()
    uvloop.run(main())


# The client.


def _ask(path: Path, target: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    method, more = {"up": ("PUT", "Transfer-Encoding: chunked\r\n")}.get(
        target.split("/")[0], ("POST", "Connection: Upgrade\r\nUpgrade: tcp\r\n") if "both" in target else ("GET", "")
    )
    peer.sendall(f"{method} /{target} HTTP/1.1\r\nHost: docker\r\n{more}\r\n".encode())
    return peer


def _drain(peer: socket.socket, count_bytes: int) -> None:
    while count_bytes > 0:
        got = len(peer.recv(min(count_bytes, _READ_BYTES)))
        if not got:
            raise ConnectionError("the stream was cut")
        count_bytes -= got


def _send(peer: socket.socket, piece: bytes, pieces: int, last: bytes) -> None:
    for _ in range(pieces):
        peer.sendall(piece)
    if last:
        peer.sendall(last)


def _move(path: Path, what: str, pieces: int) -> None:
    with _ask(path, f"{what}/{pieces}") as peer:
        if what == "down":
            _head(peer)
            _drain(peer, pieces * len(CHUNK) + 5)
        elif what == "up":
            _send(peer, CHUNK, pieces, b"0\r\n\r\n")
            _head(peer)
        else:
            _head(peer)
            threading.Thread(target=_send, args=(peer, PIECE, pieces, b""), daemon=True).start()
            _drain(peer, pieces * len(PIECE))


def _calls(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        for _ in range(CALLS):
            peer.sendall(b"GET /call/0 HTTP/1.1\r\nHost: docker\r\n\r\n")
            _head(peer)
            _drain(peer, 4000 + len('{"Id": ""}'))


# The measurement.


def _spent_s(process: Any) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure(label: str, path: Path, daemons: dict[str, Any], pieces: int) -> Iterator[str]:
    for what in ("down", "up", "both", "call"):
        before = {name: _spent_s(process) for name, process in daemons.items()}
        begin = time.perf_counter()
        if what == "call":
            _calls(path)
        else:
            _move(path, what, pieces)
        took_s = time.perf_counter() - begin
        per, unit = (CALLS / 1e6, "us") if what == "call" else (pieces * len(PIECE) / GB, "s/GB")
        spent = ", ".join(f"{name} {(_spent_s(p) - before[name]) / per:.2f} {unit}" for name, p in daemons.items())
        rate = f"{took_s / per:.0f} us each" if what == "call" else f"{pieces * len(PIECE) / 1e6 / took_s:.0f} MB/s"
        yield f"{label:7} {what:5} {spent} ({rate})"


def _start(target: Callable[..., None], *args: Any) -> Any:
    ready = _spawn.Event()
    process = _spawn.Process(target=target, args=(*args, ready), daemon=True)
    process.start()
    if not ready.wait(30):
        raise TimeoutError(f"{target.__name__} did not start")
    return process


def _certificates(tls_dir: Path) -> None:
    now = time.time()
    authority = certificates.new_authority("bench", now)
    request = certificates.request(certificates.host_key(tls_dir), "there")
    certificates.install(tls_dir, authority, certificates.issue(authority, request, "there", "127.0.0.1", now))


def run(gb: float) -> None:
    pieces = int(gb * GB / len(PIECE))
    with tempfile.TemporaryDirectory(prefix="drover-relaying-") as name:
        here, port = Path(name), _spawn.Value("i", 0)
        _certificates(here / "tls")
        processes = [_start(_serve_engine, here / "engine")]
        try:
            processes.append(near := _start(_serve_gateway, here / "local", here / "engine", here / "tls", 0))
            processes.append(there := _start(_serve_tunnel, here / "engine", here / "tls", port))
            processes.append(far := _start(_serve_gateway, here / "remote", here / "engine", here / "tls", port.value))
            for line in _measure("local", here / "local", {"daemon": near}, pieces):
                print(line, flush=True)
            for line in _measure("remote", here / "remote", {"client's": far, "container's": there}, pieces):
                print(line, flush=True)
        finally:
            for process in processes:
                process.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(description="Processor time of relaying, without engines.")
    parser.add_argument("--gb", type=float, default=1.0, help="how much each stream moves")
    run(parser.parse_args().gb)
    return 0


if __name__ == "__main__":
    sys.exit(main())
