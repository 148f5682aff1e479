"""What the shipped adapters share: a server for one function from a hook's message to its answer.

Theory of operation. `decide(message)` returns the answer's JSON, or raises `Refuse`. Whatever else it raises is a 500,
so that a broken adapter refuses rather than lets pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from drover.errors import Invalid

BODY_LIMIT_BYTES = 64 * 1024 * 1024
Message = dict[str, Any]
Decide = Callable[[Message], dict[str, Any]]


class Refuse(Exception):
    """The call shall not be made; the client gets the sentence and the status."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def unchanged(message: Message) -> dict[str, Any]:
    """The answer that leaves everything as it is."""
    if message["Type"] == "pre-hook":
        return {"PowerstripProtocolVersion": 1, "ModifiedClientRequest": message["ClientRequest"]}
    shown = message["ServerResponse"] or {}
    kept = {name: shown.get(name) for name in ("ContentType", "Body", "Code")}
    return {"PowerstripProtocolVersion": 1, "ModifiedServerResponse": kept}


def with_body(message: Message, body: str) -> dict[str, Any]:
    """The answer to a pre-hook that changes the request's body only."""
    return {"PowerstripProtocolVersion": 1, "ModifiedClientRequest": message["ClientRequest"] | {"Body": body}}


def application(decide: Decide) -> web.Application:
    async def hook(request: web.Request) -> web.Response:
        try:
            return web.json_response(decide(await request.json()))
        except Refuse as refusal:
            return web.json_response({"message": refusal.message}, status=refusal.status)

    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app.router.add_post("/{path:.*}", hook)
    return app


def read_config(path: str) -> dict[str, Any]:
    """A YAML file with a mapping. Raises `Invalid`."""
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Invalid(f"{path} must hold a mapping")
    return found


def only_keys(config: dict[str, Any], allowed: frozenset[str], where: str) -> None:
    """Raises `Invalid` for a key that nobody would look at: a limit with a typing error is no limit."""
    for name in config.keys() - allowed:
        raise Invalid(f"{where} has the unknown key {name!r}", hint=f"allowed are {', '.join(sorted(allowed))}")


def main(make: Callable[[dict[str, Any]], Decide], what: str) -> None:
    """Run an adapter from the command line; `make(config)` gives its function."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--config", required=True, help="a YAML file; see docs/adapters.md")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT, or unix:///PATH")
    options = parser.parse_args()
    try:
        app = application(make(read_config(options.config)))
    except Invalid as error:
        parser.error(error.message)
    if options.listen.startswith("unix://"):
        web.run_app(app, path=options.listen.removeprefix("unix://"), print=None, access_log=None)
        return
    host, _, port = options.listen.rpartition(":")
    web.run_app(app, host=host, port=int(port), print=None, access_log=None)
