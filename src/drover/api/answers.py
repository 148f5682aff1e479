"""Errors as JSON, both ways, and one call over the standard library's HTTP client.

The body of a refusal is `{"error": sentence, "hint": sentence or "", "code": exit code}`; the code is the error's place
in the tree (`drover.errors`), so the caller raises what the daemon raised. Imports are few: `drover` starts with them.
"""

from __future__ import annotations

import http.client
import json
from typing import Any

from drover import errors
from drover.errors import DroverError, EngineError, Unavailable

_BY_CODE: dict[int, type[DroverError]] = {
    kind.exit_code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DroverError) and kind not in (EngineError, errors.NoPlacement)
}


def error_body(error: DroverError) -> dict[str, Any]:
    return {"error": error.message, "hint": error.hint, "code": error.exit_code}


def error_of(answer: dict[str, Any], status: int) -> DroverError:
    """The error a daemon sent, as the class it had there."""
    message = str(answer.get("error", f"the daemon answered with status {status}"))
    code = int(answer.get("code", 0))
    if code == EngineError.exit_code:
        return EngineError(status, message)
    kind = _BY_CODE.get(code, DroverError)
    return kind(message, hint=str(answer.get("hint", "")))


def exchange(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    """One call and its decoded JSON answer; closes the connection. Raises the daemon's own error, `Unavailable` if
    what answered is no daemon, and `OSError` or `HTTPException` as they come."""
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return understand(response.status, response.read())
    finally:
        connection.close()


def understand(status: int, raw: bytes) -> Any:
    """The decoded JSON of an answer. Raises the daemon's own error, or `Unavailable` if what answered is no daemon."""
    try:
        answer = json.loads(raw)
    except ValueError:
        raise Unavailable(
            f"what answered is no drover daemon: status {status} and no JSON",
            hint="check the address and port; a daemon's API listens on port 4740",
        )
    if status >= 400:
        raise error_of(answer if isinstance(answer, dict) else {}, status)
    return answer
