"""Telling what happens while it happens, and keeping account of what held.

Theory of operation. A story has acts, an act makes promises:

    a promise's block   the row   and then
    ends                PASS      the act goes on
    raises              FAIL      expectation and evidence are told, the act is over, the next one begins

A promise may need another: the inner one's failure is told once, and fails both. So one broken thing costs the rest
of its act and not the whole story; the account at the end has a row for each promise that was tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from drover.errors import DroverError

Clock = Callable[[], float]


class Voice(NamedTuple):
    """How a story is told: plain lines, and the titles of acts."""

    say: Callable[[str], None]
    title: Callable[[str], None]


def unmet(expected: str, found: str) -> DroverError:
    """The error of something that was promised and is not so."""
    return DroverError(f"expected {expected}; found {found}")


class ActOver(Exception):
    """A promise of this act did not hold, which was told already."""


class Row(msgspec.Struct):
    """One line of the account. `figure` is what was measured."""

    promise: str
    figure: str = ""
    held: bool = False


def expect(holds: object, expected: str, found: object) -> None:
    if not holds:
        raise unmet(expected, str(found).strip() or "nothing")


def indent(text: str, by: str = "    ") -> str:
    return "\n".join(by + line for line in text.rstrip().splitlines())


class Story:
    """`evidence()` is what helps to understand a failure: the last lines of the daemons."""

    def __init__(self, voice: Voice, evidence: Callable[[], str] = str, clock: Clock = time.monotonic) -> None:
        self.rows: list[Row] = []
        self._voice = voice
        self._evidence = evidence
        self._clock = clock
        self._began = clock()
        self._acts = 0

    @property
    def held(self) -> bool:
        return all(row.held for row in self.rows)

    def act(self, title: str, play: Callable[[], None]) -> None:
        """Play one act to its end, or to its first promise that does not hold."""
        self._acts += 1
        self._voice.title(f"\n{self._now()} {self._acts}. {title}")
        try:
            play()
        except ActOver:
            return
        except Exception as error:  # whatever it is: an act that breaks off is an act that did not hold
            self.rows.append(row := Row(title))
            self._failed(row, error)

    def tell(self, text: str) -> None:
        self._voice.say(f"{self._now()} {text}")

    def show(self, text: str) -> None:
        """Somebody else's words, set apart."""
        if text.strip():
            self._voice.say(indent(text, " " * 12))

    @contextmanager
    def promise(self, promise: str) -> Iterator[Row]:
        """A block that ends if the promise holds; it may set the row's `figure`."""
        row = Row(promise)
        self.rows.append(row)
        try:
            yield row
        except ActOver:
            row.figure = "a promise it needed did not hold"
            raise
        except Exception as error:
            self._failed(row, error)
            raise ActOver from error
        row.held = True
        self._voice.title(f"{self._now()} PASS {promise}" + (f": {row.figure}" if row.figure else ""))

    def _failed(self, row: Row, error: Exception) -> None:
        row.figure = row.figure or _first_line(error)
        self._voice.title(f"{self._now()} FAIL {row.promise}")
        self.show(str(error) or type(error).__name__)
        if isinstance(error, DroverError):
            self.show(error.hint)
        self.show(self._evidence())

    def now_s(self) -> float:
        """Seconds since the story began."""
        return self._clock() - self._began

    def _now(self) -> str:
        return f"[{self.now_s():6.1f} s]"


def _first_line(error: Exception) -> str:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line if len(line) <= 70 else line[:69] + "…"
