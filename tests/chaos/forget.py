"""Have a member of the store forget the history before now: `python forget.py URL TLS-DIRECTORY`; the revision is told.

It runs on a host of the lab as that host, with nothing but Python's own library, so that it is done in a moment.
"""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from typing import Any

TIMEOUT_S = 2.0


def main(url: str, tls: str) -> None:
    context = ssl.create_default_context(cafile=f"{tls}/ca.crt")
    context.load_cert_chain(f"{tls}/host.crt", f"{tls}/host.key")

    def ask(path: str, body: dict[str, str]) -> Any:
        with urllib.request.urlopen(url + path, json.dumps(body).encode(), TIMEOUT_S, context=context) as answer:
            return json.load(answer)

    revision = ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    ask("/v3/kv/compaction", {"revision": revision})
    print(revision)


if __name__ == "__main__":
    main(*sys.argv[1:])
