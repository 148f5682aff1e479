"""The demo's client and its picture: what is written down, what counts as a silence, what is drawn."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from drover.lab import shopper
from drover.lab.shopper import Order
from drover.lab.timeline import Event, Run, Sample, draw, gaps, longest_gap_s, tick_s

SVG = "{http://www.w3.org/2000/svg}"


def orders(*answered_at: float) -> list[Order]:
    return [Order(number, at - 0.01, 0.01, True) for number, at in enumerate(answered_at, 1)]


def test_a_silence_is_from_one_acknowledged_answer_to_the_next() -> None:
    sent = [*orders(1.0, 1.1), Order(3, 1.2, 0.2, False), *orders(4.1, 4.2)]
    assert [(round(gap.begin, 3), round(gap.end, 3)) for gap in gaps(sent, 0.5)] == [(1.1, 4.1)]
    assert longest_gap_s(sent, 0.0, 10.0) == pytest.approx(3.0)
    assert longest_gap_s(sent, 4.15, 10.0) == pytest.approx(0.1)
    assert longest_gap_s(sent, 5.0, 10.0) == 0.0


def test_the_picture_shows_every_request_holder_and_event() -> None:
    samples = [Sample(0.0, "h1", 1, 0.5), Sample(1.0, "h1", 1, 0.1), Sample(2.0, "h2", 2), Sample(3.0, "h2", 2, 2.0)]
    run = Run([*orders(0.1, 0.2, 3.9), Order(4, 2.0, 0.5, False)], samples, [Event(1.5, "move <db>")])
    picture = ET.fromstring(draw(run, "title"))
    words = [text.text for text in picture.iter(f"{SVG}text")]
    assert len(list(picture.iter(f"{SVG}circle"))) == 4
    assert {"h1, epoch 1", "h2, epoch 2", "move <db>", "title", "3.70 s"} <= set(words)


def test_a_run_of_one_request_is_drawn_too() -> None:
    picture = ET.fromstring(draw(Run(orders(5.0), [], []), "short"))
    assert len(list(picture.iter(f"{SVG}circle"))) == 1


@pytest.mark.parametrize(("span_s", "step_s"), [(3.0, 1), (13.0, 2), (100.0, 10), (1e6, 3600)])
def test_the_axis_has_a_dozen_marks_at_most(span_s: float, step_s: int) -> None:
    assert tick_s(span_s) == step_s


class _Shop(BaseHTTPRequestHandler):
    """Takes every order but number 3, which it acknowledges as another."""

    def do_GET(self) -> None:
        number = self.path.partition("?")[2]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"ordered {'33' if number == '3' else number}\n".encode())

    def log_message(self, *_words: object) -> None:
        """Tests are silent."""


@pytest.fixture
def shop() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_order_counts_when_it_is_acknowledged_by_its_number(shop: str) -> None:
    assert shopper.order(shop, 2).ok
    assert not shopper.order(shop, 3).ok


def test_an_order_that_nobody_takes_is_a_failure_not_an_error() -> None:
    assert not shopper.order("127.0.0.1:1", 1).ok


def test_a_last_line_that_is_cut_short_is_left_out(tmp_path: Path) -> None:
    book = tmp_path / "orders.jsonl"
    book.write_text('{"number": 1, "at": 2.0, "took_s": 0.5, "ok": true}\n{"number": 2, "a')
    assert shopper.read(book) == [Order(1, 2.0, 0.5, True)]
    assert shopper.read(book)[0].answered_at == 2.5
