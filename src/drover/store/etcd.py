"""The store in etcd, over its JSON gateway. See `Store` for what the methods promise.

Theory of operation. Reads are linearizable: a member without a majority cannot answer them. A snapshot is read in
pages, all at the revision of the first one; the watch goes on from that revision, so both meet exactly.

A watch lives on one member at a time. It moves to another one when the connection ends, when nothing was heard for
`SILENCE_S` (members say every second that they are there, see `daemon.etcd_process`), or when the member has lost
its leader; it asks from the last revision that it delivered, so nothing is missing or twice. After `PATIENCE_S`
without a word from any member it raises `Unavailable`.

    etcd says                          raised
    txn not succeeded                  CommitConflict with the keys that differ
    compact_revision / out of range    Compacted
    lease not found, TTL 0             NotFound
    anything in `etcd_http`'s table    Unavailable, AnswerLost
    any other refusal                  Refused (a fault of Drover's or of etcd's set-up: the sentence says which)
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from drover.errors import Unavailable
from drover.model.cluster import Change, Cluster
from drover.store import etcd_codec as codec
from drover.store.etcd_http import EtcdHttp, MaybeTaken, NotTaken, Refused
from drover.store.port import Batch, CommitConflict, Compacted, Lease, lease_over, refuse_twice

Json = dict[str, Any]

PAGE_ROWS = 1000
SILENCE_S = 3.0
PATIENCE_S = 6.0
PAUSE_S = 0.1
RENEW_ATTEMPTS = 10
"""How many attempts to renew a lease fit into its time: short ones, as the next may find a new leader."""
KEEPALIVE = "/v3/lease/keepalive"

NOT_FOUND, OUT_OF_RANGE = 5, 11
"""gRPC status codes."""


class EtcdLease:
    """A lease of etcd's. `ttl_s` is what etcd granted: whole seconds, at least 1.5 election time-outs."""

    def __init__(self, http: EtcdHttp, lease: str, ttl_s: float) -> None:
        self._http = http
        self.id = lease
        self.ttl_s = ttl_s

    async def renew(self) -> float:
        """See `Lease.renew`. One member is asked; if it does not answer soon, all of them at once: a host must not
        fence itself because one of them has fallen silent, or died as their leader. Then it gives up, soon enough for
        the caller to ask again."""
        attempt_s = self.ttl_s / RENEW_ATTEMPTS
        sent_s = asyncio.get_running_loop().time()
        try:
            body = (await self._http.call(KEEPALIVE, {"ID": self.id}, deadline_s=attempt_s, attempt_s=attempt_s)).body
        except Unavailable:
            sent_s = asyncio.get_running_loop().time()
            body = await self._any_member(attempt_s)
        if int(body.get("TTL", 0)) <= 0:
            raise lease_over(self.id)
        return sent_s

    async def _any_member(self, limit_s: float) -> Json:
        """The first answer of any member. Raises `Unavailable` if none answers in time."""
        asked = [asyncio.create_task(self._ask(url)) for url in self._http.endpoints]
        try:
            async with asyncio.timeout(limit_s):
                for answer in asyncio.as_completed(asked):
                    if (body := await answer) is not None:
                        return body
        except TimeoutError:
            pass
        finally:
            for task in asked:
                task.cancel()
        raise Unavailable("no member of the store renewed the lease")

    async def _ask(self, endpoint: str) -> Json | None:
        try:
            return await self._http.call_at(endpoint, KEEPALIVE, {"ID": self.id})
        except (Unavailable, Refused):
            return None

    async def revoke(self) -> None:
        try:
            await self._http.call("/v3/lease/revoke", {"ID": self.id})
        except (Unavailable, Refused):
            return


class EtcdStore:
    """A client of the cluster's etcd.

    `endpoints` are client URLs, preferred first, and may be replaced at any time through `http.endpoints`;
    `tls` carries the host's certificate and the cluster's CA; `deadline_s` bounds each call.
    """

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None = None, deadline_s: float = 4.0) -> None:
        self.http = EtcdHttp(endpoints, tls, deadline_s)

    async def snapshot(self) -> Cluster:
        while True:
            try:
                return await self._snapshot()
            except Refused as error:
                # The revision of the first page was compacted before the last page was read.
                if error.code != OUT_OF_RANGE:
                    raise

    async def _snapshot(self) -> Cluster:
        rows: list[Json] = []
        start, revision, more = codec.PREFIX, 0, True
        while more:
            answer = (await self.http.call("/v3/kv/range", codec.page(start, revision, PAGE_ROWS))).body
            revision = revision or codec.revision_of(answer)
            rows += answer.get("kvs", [])
            more = bool(answer.get("more"))
            start = codec.after_last(rows) if more else start
        return codec.picture(revision, rows)

    async def watch(self, revision: int) -> AsyncIterator[Batch]:
        loop = asyncio.get_running_loop()
        seen, heard_s = revision, loop.time()
        while True:
            try:
                async with aclosing(self._answers(seen)) as answers:
                    async for answer in answers:
                        for batch in codec.batches(answer, seen):
                            seen = batch.revision
                            yield batch
                        heard_s = loop.time()
            except (NotTaken, MaybeTaken) as error:
                if loop.time() - heard_s > PATIENCE_S:
                    raise _silent(error.message) from error
                await asyncio.sleep(PAUSE_S)

    async def _answers(self, revision: int) -> AsyncGenerator[Json, None]:
        """What one member says to a watch, until it says no more."""
        stream = self.http.stream("/v3/watch", codec.watch_request(revision), SILENCE_S)
        async with aclosing(stream) as answers:
            async for answer in answers:
                if int(answer.get("compact_revision", 0)):
                    raise _compacted(revision)
                if answer.get("canceled"):
                    raise MaybeTaken(f"the member ended the watch: {answer.get('cancel_reason', 'without a reason')}")
                yield answer

    async def commit(
        self, changes: Sequence[Change], expect: Mapping[str, int] | None = None, lease: Lease | None = None
    ) -> int:
        refuse_twice(changes)
        expect = expect or {}
        request = codec.txn(changes, expect, lease.id if lease else None)
        try:
            answer = (await self.http.call("/v3/kv/txn", request, repeatable=False)).body
        except Refused as error:
            if error.code == NOT_FOUND and lease:
                raise lease_over(lease.id) from error
            raise
        if not answer.get("succeeded"):
            raise CommitConflict(codec.broken_expectations(answer, expect))
        return codec.revision_of(answer)

    async def grant(self, ttl_s: float) -> EtcdLease:
        answer = (await self.http.call("/v3/lease/grant", {"TTL": str(math.ceil(ttl_s))})).body
        return EtcdLease(self.http, answer["ID"], float(answer["TTL"]))

    async def close(self) -> None:
        await self.http.close()


def _compacted(revision: int) -> Compacted:
    return Compacted(
        f"the history after revision {revision} is gone (compacted)",
        hint="take a new snapshot and watch from its revision",
    )


def _silent(why: str) -> Unavailable:
    return Unavailable(
        f"no member of the store was heard for {PATIENCE_S:g} s ({why})",
        hint="check that most of the hosts that run the store are up: drover host ls",
    )
