"""Have the store forget its history, at each line of input: `python forget.py TLS-DIRECTORY URL...`.

It says `ready`, and then for each line the revision before which all is forgotten (0: no member did it, or nothing was
written since the last time). It runs on a host of the lab as that host, beforehand, so that a line is done in a moment.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any

TIMEOUT_S = 1.0


def main(tls: str, urls: Sequence[str], lines: Iterable[str]) -> None:
    context = ssl.create_default_context(cafile=f"{tls}/ca.crt")
    context.load_cert_chain(f"{tls}/host.crt", f"{tls}/host.key")
    print("ready", flush=True)
    for _ in lines:
        print(next((revision for url in urls if (revision := _forgotten(url, context))), 0), flush=True)


def _forgotten(url: str, context: ssl.SSLContext) -> int:
    def ask(path: str, body: dict[str, str]) -> Any:
        with urllib.request.urlopen(url + path, json.dumps(body).encode(), TIMEOUT_S, context=context) as answer:
            return json.load(answer)

    try:
        revision = ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        ask("/v3/kv/compaction", {"revision": revision})
    except OSError:
        return 0
    return int(revision)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:], sys.stdin)
