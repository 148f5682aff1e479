"""The API over its real sockets: who may call what, joining, and what the answers look like."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from api_world import World, alive, placed, world

from drover.api import joiner
from drover.api.app import WAY_OUT
from drover.cli.join import enter
from drover.daemon.config import load_config
from drover.daemon.volumes import PeerVolumes
from drover.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from drover.model.cluster import Cluster, delete, put
from drover.model.records import Container, Member, Name, key
from drover.store.mirror import Mirror
from drover.trust import certificates, tls


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def joined(api: World, name: str) -> Path:
    """Let a host in as `drover join` does; returns its TLS directory."""
    await asyncio.to_thread(enter, api.machine(name), "127.0.0.1", api.port, await api.token())
    return api.directory / name / "tls"


CLOSED = [("GET", "/status"), ("GET", "/hosts"), ("POST", "/tokens"), ("DELETE", "/hosts/h1"), ("GET", "/nothing")]


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_without_a_certificate_all_but_joining_is_forbidden(api: World, method: str, path: str) -> None:
    with pytest.raises(Forbidden, match="needs a certificate of a host of cluster test"):
        await api.call_tls(method, path)


async def test_without_a_certificate_health_and_ca_are_open(api: World) -> None:
    assert await api.call_tls("GET", "/healthz") == {"host": "h1", "healthy": True, "store_generation": 0}
    assert (await api.call_tls("GET", "/ca"))["certificate"].encode() == api.ca_certificate


async def test_a_member_may_call_and_a_removed_one_may_not(api: World) -> None:
    h2 = await joined(api, "h2")
    assert [one["name"] for one in await api.call_tls("GET", "/hosts", h2)] == ["h1", "h2"]
    await api.call("DELETE", "/hosts/h2")
    with pytest.raises(Forbidden, match="h2 is not a member"):
        await api.call_tls("GET", "/hosts", h2)


async def test_a_certificate_counts_while_no_picture_is_there(tmp_path: Path) -> None:
    made = World(tmp_path)
    made.found()
    await made.server.start(made.socket, "", "127.0.0.1", 0)
    made.port = made.server.port
    try:
        assert (await made.call_tls("GET", "/status", made.tls_dir))["store"]["ok"] is False
    finally:
        await made.server.stop()


async def test_join_gives_all_that_a_host_needs(api: World) -> None:
    await api.commit(put("members/h1", Member(host="h1", peer_url="p", client_url="https://127.0.0.1:4742")))
    tls_dir = await joined(api, "h2")
    config = load_config(api.directory / "h2")
    assert (config.name, config.index, config.cluster_name) == ("h2", 2, "test")
    assert config.store_endpoints == ("https://127.0.0.1:4742",)
    assert config.id == api.cluster.hosts["h2"].id
    assert api.cluster.hosts["h2"].labels == {"zone": "a"}
    assert tls.client_context(tls_dir).verify_mode is ssl.CERT_REQUIRED
    assert certificates.load_authority(tls_dir) == certificates.load_authority(api.tls_dir)


async def test_a_host_that_joined_can_take_in_the_next(api: World) -> None:
    tls_dir = await joined(api, "h2")
    csr = certificates.request(certificates.new_key(), "h3")
    authority = certificates.load_authority(tls_dir)
    issued = certificates.issue(authority, csr, "h3", "192.0.2.3", api.now)
    assert certificates.expires_at(issued) > api.now


async def test_one_token_lets_in_one_host_however_many_ask_at_once(api: World) -> None:
    parsed = await api.token()
    wishes = [msgspec.to_builtins(api.wish(parsed, f"h{n}")) for n in range(2, 6)]
    calls = [api.call_tls("POST", "/join", body=wish) for wish in wishes]
    results = await asyncio.gather(*calls, return_exceptions=True)
    winners = [one for one in results if not isinstance(one, BaseException)]
    losers = [one for one in results if isinstance(one, BaseException)]
    assert len(winners) == 1
    assert all("already used by host" in str(one) for one in losers)
    assert set(api.cluster.hosts) == {"h1", winners[0]["host"]["name"]}


async def test_a_reusable_token_lets_in_many_with_indexes_of_their_own(api: World) -> None:
    parsed = await api.token(reusable=True)
    wishes = [msgspec.to_builtins(api.wish(parsed, f"h{n}")) for n in range(2, 8)]
    await asyncio.gather(*(api.call_tls("POST", "/join", body=wish) for wish in wishes))
    assert sorted(host.index for host in api.cluster.hosts.values()) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_join_whose_answer_was_lost_may_be_repeated(api: World) -> None:
    wish = msgspec.to_builtins(api.wish(await api.token()))
    first = await api.call_tls("POST", "/join", body=wish)
    second = await api.call_tls("POST", "/join", body=wish)
    assert first["host"] == second["host"]
    assert api.cluster.hosts["h2"].index == 2


async def test_an_expired_token_is_refused_over_the_wire(api: World) -> None:
    parsed = await api.token(ttl_s=60)
    api.now += 3600
    with pytest.raises(Forbidden, match="expired 59 minutes ago") as caught:
        await api.call_tls("POST", "/join", body=msgspec.to_builtins(api.wish(parsed)))
    assert "drover token create" in caught.value.hint


async def test_a_wrong_fingerprint_stops_the_join_before_the_secret_is_sent(api: World) -> None:
    parsed = msgspec.structs.replace(await api.token(), ca_fingerprint="0" * 64)
    with pytest.raises(Forbidden, match="the token was not sent"):
        await asyncio.to_thread(enter, api.machine("h2"), "127.0.0.1", api.port, parsed)
    assert set(api.cluster.hosts) == {"h1"}
    assert not (api.directory / "h2").exists()


async def test_an_impostor_with_the_right_ca_certificate_never_sees_the_secret(api: World, tmp_path: Path) -> None:
    """It shows the cluster's (public) CA certificate, but its own certificate is of another CA."""
    impostor = tmp_path / "impostor"
    csr = certificates.request(certificates.host_key(impostor), "h1")
    foreign = certificates.new_authority("test", api.now)
    certificates.install(impostor, foreign, certificates.issue(foreign, csr, "h1", "127.0.0.1", time.time()))
    heard: list[bytes] = []
    body = json.dumps({"certificate": api.ca_certificate.decode()}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    parsed = await api.token()
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.server_context(impostor, "optional"))
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Forbidden, match="could not prove"):
            await asyncio.to_thread(enter, api.machine("h2"), "127.0.0.1", port, parsed)
    assert [head.split(b" ")[1] for head in heard] == [b"/ca"]
    assert all(parsed.secret.encode() not in head for head in heard)


async def test_nobody_listening_is_said(api: World) -> None:
    await api.server.stop()
    with pytest.raises(Unavailable, match="cannot talk to"):
        await asyncio.to_thread(joiner.trusted_ca, "127.0.0.1", api.port, "0" * 64)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.1", ("192.0.2.1", 4740)),
        ("web1:5000", ("web1", 5000)),
        ("[2001:db8::1]:5000", ("2001:db8::1", 5000)),
        ("[2001:db8::1]", ("2001:db8::1", 4740)),
        ("2001:db8::1", ("2001:db8::1", 4740)),
    ],
)
def test_endpoints_are_understood(text: str, parts: tuple[str, int]) -> None:
    assert joiner.parse_endpoint(text) == parts


@pytest.mark.parametrize("text", ["", ":1", "web1:x", "web1:0", "web1:70000"])
def test_bad_endpoints_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="no address of a host"):
        joiner.parse_endpoint(text)


async def test_status_says_who_leads_and_how_the_store_is(api: World) -> None:
    await api.commit(*alive("h1"))
    status = await api.call("GET", "/status")
    assert (status["cluster"], status["host"], status["leader"]) == ("test", "h1", "h1")
    assert status["store"]["ok"] is True
    assert status["hosts"] == {"ready": 1}
    assert status["engine"]["version"] == "20.10.24"
    assert status["certificate_expires_at"] > api.now


async def test_status_says_since_when_the_store_is_silent(tmp_path: Path) -> None:
    async with world(tmp_path) as api:
        await api.mirror.stop()
        api.mirror.healthy, api.mirror.trouble = False, "no quorum"
        api.mirror.stale_since = asyncio.get_running_loop().time() - 100
        store = (await api.call("GET", "/status"))["store"]
    assert store["ok"] is False
    assert api.now - 200 < store["stale_since"] < api.now - 99
    assert store["message"].endswith(f"UTC: no quorum; {WAY_OUT}")


async def test_hosts_say_their_state_and_what_they_carry(api: World) -> None:
    await joined(api, "h2")
    await api.commit(*alive("h1"), placed("h1"))
    first, second = await api.call("GET", "/hosts")
    assert (first["state"], first["containers"], first["engine"]["cpus"]) == ("ready", 1, 2)
    assert (second["state"], second["engine"]) == ("unknown", {})
    assert (await api.call("GET", "/hosts/h2"))["message"].startswith("host h2 has not joined completely")


async def test_a_call_that_was_passed_on_is_answered_when_this_host_sees_what_it_did(api: World) -> None:
    """h2's picture comes late; what a client of h2 asks next must be answered from one that has its change."""
    h2 = await joined(api, "h2")
    await api.commit(put("hosts/h1", msgspec.structs.replace(api.cluster.hosts["h1"], api_port=api.port)))
    late = Mirror(api.store)
    late.cluster = await api.store.snapshot()
    peers = PeerVolumes(late, tls.client_context(h2))
    behind = asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(late.start()))
    try:
        await peers.pass_on("h1", "POST", "/hosts/h2/labels", b'{"set": {"disk": "ssd"}}')
        assert late.cluster.hosts["h2"].labels["disk"] == "ssd"
    finally:
        behind.cancel()
        await late.stop()
        await peers.close()


async def test_a_call_that_is_passed_on_is_answered_by_a_host_that_sees_what_its_client_was_shown(
    api: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: h1's picture is the late one, and the call speaks of what h2 has seen."""
    h2 = await joined(api, "h2")
    await api.commit(put("hosts/h1", msgspec.structs.replace(api.cluster.hosts["h1"], api_port=api.port)))
    ahead = Mirror(api.store)
    await ahead.start()
    peers = PeerVolumes(ahead, tls.client_context(h2))
    await api.mirror.stop()
    labels = {"disk": "ssd"}
    changed = put("hosts/h2", msgspec.structs.replace(api.cluster.hosts["h2"], labels=labels))
    await ahead.reached(await api.store.commit([changed]), 5)
    assert api.cluster.hosts["h2"].labels != labels
    reached = api.mirror.reached

    async def late(revision: int, deadline_s: float) -> Cluster:
        await api.mirror.start()
        return await reached(revision, deadline_s)

    monkeypatch.setattr(api.mirror, "reached", late)
    try:
        assert (await peers.pass_on("h1", "GET", "/hosts/h2", b""))["labels"] == labels
    finally:
        await ahead.stop()
        await peers.close()


async def test_a_revision_that_is_no_number_is_refused(api: World) -> None:
    h2 = await joined(api, "h2")
    await api.commit(put("hosts/h1", msgspec.structs.replace(api.cluster.hosts["h1"], api_port=api.port)))
    context = tls.client_context(h2)
    async with aiohttp.ClientSession(headers={"Drover-Revision": "soon"}) as session:
        for path, status in (("/hosts", 400), ("/healthz", 200)):
            async with session.get(f"https://127.0.0.1:{api.port}{path}", ssl=context) as answer:
                assert answer.status == status


async def test_labels_and_draining(api: World) -> None:
    answer = await api.call("POST", "/hosts/h1/labels", {"set": {"storage": "ssd"}, "remove": ["none"]})
    assert answer["labels"] == {"storage": "ssd"}
    assert (await api.call("POST", "/hosts/h1/drain"))["scheduling"] == "drain"
    assert (await api.call("POST", "/hosts/h1/undrain"))["scheduling"] == "active"


async def test_removing_a_host_waits_for_its_store_member(api: World) -> None:
    await joined(api, "h2")
    await api.commit(put("members/h2", Member(host="h2", peer_url="", client_url="")))
    removal = asyncio.create_task(api.call("DELETE", "/hosts/h2"))
    await api.mirror.until(lambda cluster: "h2" not in cluster.hosts, 5, "the removal")
    assert not removal.done()
    await api.commit(delete(key("members", "h2")))
    assert await removal == {"removed": "h2"}


async def test_only_the_host_itself_may_leave_alive(api: World) -> None:
    await joined(api, "h2")
    await api.commit(*alive("h1"), *alive("h2"))
    with pytest.raises(Conflict, match="h2 is alive"):
        await api.call("DELETE", "/hosts/h2?leaving=1")
    assert await api.call("DELETE", "/hosts/h1?leaving=1") == {"removed": "h1"}


async def test_tokens_are_listed_without_secrets_and_can_be_removed(api: World) -> None:
    parsed = await api.token()
    (shown,) = await api.call("GET", "/tokens")
    assert (shown["id"], shown["state"]) == (parsed.id, "valid")
    assert "secret" not in json.dumps(shown)
    await api.call("DELETE", f"/tokens/{parsed.id}")
    assert await api.call("GET", "/tokens") == []
    with pytest.raises(NotFound, match="no token has the id"):
        await api.call("DELETE", f"/tokens/{parsed.id}")


async def test_why_is_answered_by_name(api: World) -> None:
    await api.commit(put("containers/c1", Container(id="c1", name="web", body="{}")), put("names/web", Name(id="c1")))
    assert (await api.call("GET", "/why/web"))["container"] == "web"
    with pytest.raises(NotFound, match="No such container: nobody"):
        await api.call("GET", "/why/nobody")


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "says"),
    [
        ("POST", "/tokens", {"ttl_s": "long"}, Invalid, "not what /tokens takes"),
        ("POST", "/tokens", {"ttl_s": -1}, Invalid, "cannot live"),
        ("POST", "/join", {}, Invalid, "not what /join takes"),
        ("POST", "/hosts/h1/labels", {"set": {"a b": "c"}}, Invalid, "label's name"),
        ("POST", "/hosts/h9/labels", {}, NotFound, "no host is called h9"),
        ("GET", "/hosts/h9", None, NotFound, "no host is called h9"),
        ("GET", "/nothing", None, NotFound, "there is no GET /nothing"),
        ("PATCH", "/hosts", None, NotFound, "there is no PATCH /hosts"),
    ],
)
async def test_bad_calls_get_sentences(
    api: World, method: str, path: str, body: object, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        await api.call(method, path, body)


async def test_a_body_that_is_too_large_is_refused(api: World) -> None:
    with pytest.raises(Invalid, match="cannot be served"):
        await api.call("POST", "/tokens", {"ttl_s": "x" * (2 << 20)})


async def test_a_fault_of_drover_s_own_is_told_without_its_details(api: World) -> None:
    (api.tls_dir / "ca.crt").rename(api.tls_dir / "gone")
    with pytest.raises(Exception, match="fault of drover itself") as caught:
        await api.call("GET", "/ca")
    assert "gone" not in str(caught.value)


async def test_a_port_in_use_is_said(api: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    other.found()
    with pytest.raises(Unavailable, match="cannot listen on"):
        await other.server.start(tmp_path / "other.sock", "", "127.0.0.1", api.port)
