"""Serves the API on a Unix socket (for people on this host) and on a TLS port (for hosts, and for hosts to be)."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from drover.api.app import build_api
from drover.api.context import Context
from drover.errors import Unavailable
from drover.trust import tls
from drover.trust.local import bind_unix


class ApiServer:
    """One app on both doors. `reload_tls` after a renewal of the host's certificate."""

    def __init__(self, context: Context, routes: Sequence[web.RouteDef] = ()) -> None:
        """`routes`: what other parts of the daemon offer, behind the same doors."""
        self.context = context
        app = build_api(context)
        app.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        self._tls: ssl.SSLContext | None = None

    async def start(self, socket_path: Path, group: str, address: str, port: int) -> None:
        """Raises `Conflict` if a daemon listens on the socket already, `Unavailable` if the port cannot be had."""
        await self._runner.setup()
        await web.SockSite(self._runner, bind_unix(socket_path, group)).start()
        # Certificates are optional in the handshake because a joining host has none; the app asks for them elsewhere.
        self._tls = tls.server_context(self.context.tls_dir, "optional")
        try:
            await web.TCPSite(self._runner, address, port, ssl_context=self._tls).start()
        except OSError as error:
            await self.stop()
            raise Unavailable(
                f"cannot listen on {address} port {port}: {error.strerror}",
                hint="is the address this host's, and the port free? see config.json in the state directory",
            )

    @property
    def port(self) -> int:
        """The TLS port in use."""
        return int(self._runner.addresses[-1][1])

    def reload_tls(self) -> None:
        if self._tls is not None:
            tls.reload(self._tls, self.context.tls_dir)

    async def stop(self) -> None:
        await self._runner.cleanup()
