"""A registry that keeps images in memory and asks for a name and a password: as much of the distribution API (v2) as
`docker push` and `docker pull` use. Run on a host of the lab: `python registry.py PORT USER PASSWORD`.

    GET /v2/                            who has the password may go on
    HEAD, GET /v2/NAME/blobs/DIGEST     a blob
    POST /v2/NAME/blobs/uploads/        a new upload; PATCH adds to it, PUT ?digest= completes it
    PUT, HEAD, GET /v2/NAME/manifests/REFERENCE
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import sys
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    password = ""
    blobs: ClassVar[dict[str, bytes]] = {}
    manifests: ClassVar[dict[tuple[str, str], tuple[str, bytes]]] = {}
    uploads: ClassVar[dict[str, bytes]] = {}

    def handle_one(self) -> None:
        path = urlsplit(self.path).path
        body = self._body()
        if self.headers.get("Authorization") != f"Basic {self.password}":
            self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": 'Basic realm="lab"'})
        elif path == "/v2/":
            self._answer(200, b"{}")
        elif "/blobs/uploads/" in path:
            self._upload(path, body)
        elif "/blobs/" in path:
            self._show("application/octet-stream", self.blobs.get(path.rpartition("/")[2]))
        else:
            self._manifest(path, body)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = handle_one

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _upload(self, path: str, body: bytes) -> None:
        if self.command == "POST":
            path += str(len(self.uploads))
        self.uploads[path] = self.uploads.get(path, b"") + body
        digest = parse_qs(urlsplit(self.path).query).get("digest", [""])[0]
        where = {
            "Location": path,
            "Docker-Upload-UUID": path.rpartition("/")[2],
            "Range": f"0-{max(len(self.uploads[path]) - 1, 0)}",
        }
        if self.command == "PUT":
            self.blobs[digest] = self.uploads[path]
            self._answer(201, b"", where | {"Docker-Content-Digest": digest})
        else:
            self._answer(202, b"", where)

    def _manifest(self, path: str, body: bytes) -> None:
        name, _, reference = path.partition("/manifests/")
        if self.command == "PUT":
            kind, digest = self.headers["Content-Type"], "sha256:" + hashlib.sha256(body).hexdigest()
            self.manifests[name, reference] = self.manifests[name, digest] = kind, body
            self._answer(201, b"", {"Location": path, "Docker-Content-Digest": digest})
        else:
            self._show(*self.manifests.get((name, reference), ("application/json", None)))

    def _show(self, kind: str, found: bytes | None) -> None:
        if found is None:
            self._answer(404, b'{"errors": [{"code": "NOT_FOUND"}]}')
        else:
            digest = "sha256:" + hashlib.sha256(found).hexdigest()
            self._answer(200, found, {"Content-Type": kind, "Docker-Content-Digest": digest})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    port, user, password = sys.argv[1:]
    Registry.password = base64.b64encode(f"{user}:{password}".encode()).decode()
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Registry).serve_forever()
