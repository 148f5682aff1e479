"""The demo's client: it orders without a pause and writes down every answer, until it is terminated.

    python -m drover.lab.shopper HOST:PORT FILE

Each line of FILE is one request as JSON (`Order`): `number` of the order, `at` which second since the Unix epoch it was
sent, how long until its answer (`took_s`), and whether it was acknowledged (`ok`). An order is sent once: after a
failure comes the next number. Nothing but the standard library is needed, so it starts at once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple, TextIO

TIMEOUT_S = 3.0
PAUSE_S = 0.05


class Order(NamedTuple):
    """One request and how it ended; see the module's text."""

    number: int
    at: float
    took_s: float
    ok: bool

    @property
    def answered_at(self) -> float:
        return self.at + self.took_s


def order(shop: str, number: int) -> Order:
    """Order once, on a connection of its own, as a browser would that was closed meanwhile."""
    at, begin = time.time(), time.monotonic()
    connection = HTTPConnection(shop, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/cgi-bin/order?{number}")
        answer = connection.getresponse()
        ok = answer.status == 200 and answer.read().strip() == f"ordered {number}".encode()
    except (OSError, HTTPException):
        ok = False
    finally:
        connection.close()
    return Order(number, at, time.monotonic() - begin, ok)


def read(file: Path) -> list[Order]:
    """What a client wrote down; a last line that is cut short is left out."""
    whole, _, _ = file.read_text().rpartition("\n")
    return [Order(**json.loads(line)) for line in whole.splitlines()]


def _shop(shop: str, book: TextIO) -> None:
    number = 0
    while True:
        number += 1
        book.write(json.dumps(order(shop, number)._asdict()) + "\n")
        book.flush()
        time.sleep(PAUSE_S)


def _leave(_number: int, _frame: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    with open(sys.argv[2], "w", encoding="ascii") as file:
        _shop(sys.argv[1], file)
