"""One JSON line per call, who did what and what came of it: `python -m drover.adapters.audit --config audit.yml`.

    file: /var/log/drover/audit.jsonl   or `-`, the default: standard output
    bodies: false                       true: with the bodies of requests (they may hold passwords)

List it as the last post-hook of `* /*`, and as a pre-hook too if calls that never came to an answer (refused, streamed)
shall be seen. It never changes anything. With `protocol: 2` it also knows who called, and a trace id that pairs the
two lines of a call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drover.adapters.serve import Decide, Message, main, only_keys, unchanged


def make(config: dict[str, Any], clock: Callable[[], float] = time.time) -> Decide:
    only_keys(config, frozenset({"file", "bodies"}), "the audit adapter's file")
    path = str(config.get("file", "-"))
    bodies = bool(config.get("bodies", False))

    def decide(message: Message) -> dict[str, Any]:
        write(path, json.dumps(line_of(message, clock(), bodies), ensure_ascii=False) + "\n")
        return unchanged(message)

    return decide


def write(path: str, line: str) -> None:
    """Append a line; the file is opened each time, so that it may be rotated."""
    if path == "-":
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    with Path(path).open("a", encoding="utf-8") as out:
        out.write(line)


def line_of(message: Message, now: float, bodies: bool) -> dict[str, Any]:
    """What is known of a call; names without a value are left out."""
    request, response = message["ClientRequest"], message.get("ServerResponse") or {}
    known = {
        "at": now,
        "hook": message["Type"],
        "trace_id": message.get("TraceId"),
        "who": (message.get("Client") or {}).get("Identity"),
        "method": request["Method"],
        "request": request["Request"],
        "container": (message.get("Container") or {}).get("Name"),
        "status": response.get("Code"),
        "body": request["Body"] if bodies else None,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}


if __name__ == "__main__":
    main(make, "Write one JSON line per Docker call.")
