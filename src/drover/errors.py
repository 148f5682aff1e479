"""The one error tree, with three faces.

Every error a user can meet is a `DroverError`: a sentence (what happened and why), a hint (what to do),
an exit code for shells and an HTTP status for clients.

    DroverError          1  500   something failed
    ├─ Invalid           2  400   the request itself is wrong: repeat it changed
    ├─ Forbidden         3  403   a token, certificate or rule refuses it
    ├─ NotFound          4  404   no such thing
    ├─ Conflict          5  409   the thing exists, is in use, or changed meanwhile
    ├─ NoPlacement       6  503   no host can take it; `reasons` has one sentence per host
    ├─ Unavailable       7  503   a host, the store or an engine cannot be reached now
    ├─ DeadlineExceeded  8  504   a wait ended; the message says what was missing
    ├─ MissingTool       9  500   this machine lacks a program or package; the hint names it
    └─ EngineError      10   *    an engine refused; status and message are the engine's own
"""

from __future__ import annotations

from collections.abc import Mapping


class DroverError(Exception):
    """Base of the tree: `message` is one sentence, `hint` says what to do about it (may be empty)."""

    exit_code = 1
    status = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(DroverError):
    exit_code, status = 2, 400


class Forbidden(DroverError):
    exit_code, status = 3, 403


class NotFound(DroverError):
    exit_code, status = 4, 404


class Conflict(DroverError):
    exit_code, status = 5, 409


class NoPlacement(DroverError):
    """No host can take a container; `reasons` maps each host's name to one sentence."""

    exit_code, status = 6, 503

    def __init__(self, message: str, reasons: Mapping[str, str], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reasons = dict(reasons)


class Unavailable(DroverError):
    exit_code, status = 7, 503


class DeadlineExceeded(DroverError):
    exit_code, status = 8, 504


class MissingTool(DroverError):
    exit_code, status = 9, 500


class EngineError(DroverError):
    """An engine's own refusal, kept verbatim so that clients read what one engine would have told them."""

    exit_code = 10

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
