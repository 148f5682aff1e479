"""Joining, leaving and labelling as pure decisions: every row of the table in `api.membership`."""

import msgspec
import pytest

from drover.api import membership
from drover.api.founding import founding_changes
from drover.api.membership import JoinRequest, decide_join, decide_labels, decide_removal, decide_scheduling
from drover.errors import Conflict, DroverError, Forbidden, Invalid, NotFound
from drover.model.cluster import Change, Cluster, put
from drover.model.records import (
    Alive,
    Container,
    ContainerFacts,
    Host,
    HostFacts,
    HostLost,
    Member,
    Placement,
    Token,
    Volume,
    key,
)
from drover.trust import certificates, token

NOW = 1_800_000_000.0
KEY = certificates.new_key()
CSR = certificates.request(KEY, "h2").decode()
TEXT, TOKEN = token.mint(lambda count: "7f" * count, "00" * 32, NOW)
PARSED = token.parse(TEXT)
WISH = JoinRequest(token_id=PARSED.id, secret=PARSED.secret, name="h2", address="192.0.2.2", csr=CSR, now=NOW)


def join_of(before: Cluster, wish: JoinRequest, now: float) -> membership.Decision:
    return decide_join(before, wish, certificates.key_id(wish.csr.encode()), now)


H1 = Host(name="h1", id="1", index=1, address="192.0.2.1")


def cluster(*more: Change) -> Cluster:
    """Host h1, one token, and more."""
    first = Cluster().apply(1, founding_changes(H1, "test"))
    return first.apply(2, [put(key("tokens", TOKEN.id), TOKEN)]).apply(3, more)


def host(name: str, index: int = 2, **changed: object) -> Change:
    record = Host(name=name, id=name, index=index, address=f"192.0.2.{index}")
    return put(key("hosts", name), msgspec.structs.replace(record, **changed))


def applied(before: Cluster, decision: membership.Decision) -> Cluster:
    return before.apply(before.revision + 1, decision.changes)


def test_a_join_is_one_commit_of_host_token_and_index() -> None:
    before = cluster()
    decision = join_of(before, WISH, NOW)
    after = applied(before, decision)
    assert after.hosts["h2"] == decision.host
    assert after.hosts["h2"].index == 2
    assert after.tokens[TOKEN.id].used_by == ("h2",)
    assert decide_join_index(after) == 3
    assert decision.expect == {"hosts/h2": 0, f"tokens/{TOKEN.id}": 2, "settings/next_index": 1}


def decide_join_index(after: Cluster) -> int:
    """The index the next host would get."""
    reusable = put(key("tokens", TOKEN.id), msgspec.structs.replace(TOKEN, reusable=True))
    other = msgspec.structs.replace(WISH, name="h9", address="192.0.2.99", csr=_other_csr())
    joined = join_of(after.apply(after.revision + 1, [reusable]), other, NOW).host
    assert joined is not None
    return joined.index


def _other_csr() -> str:
    return certificates.request(certificates.new_key(), "h9").decode()


def test_an_index_is_never_used_again() -> None:
    joined = applied(cluster(), join_of(cluster(), WISH, NOW))
    removed = applied(joined, decide_removal(joined, "h2", force=False, leaving=False))
    assert "h2" not in removed.hosts
    assert decide_join_index(removed) == 3


def test_the_same_host_may_repeat_its_join_and_nothing_is_written() -> None:
    joined = applied(cluster(), join_of(cluster(), WISH, NOW))
    again = join_of(joined, WISH, NOW + 10)
    assert again.changes == ()
    assert again.host == joined.hosts["h2"]


def test_another_key_is_another_host() -> None:
    joined = applied(cluster(), join_of(cluster(), WISH, NOW))
    with pytest.raises(Forbidden, match="already used by host h2"):
        join_of(joined, msgspec.structs.replace(WISH, csr=_other_csr()), NOW)


def spent(record: Token) -> Change:
    return put(key("tokens", record.id), token.used(record, "h7"))


@pytest.mark.parametrize(
    ("changed", "more", "at", "kind", "says"),
    [
        ({"name": "H2"}, (), NOW, Invalid, "cannot be a host's name"),
        ({"address": "web"}, (), NOW, Invalid, "not an IP address"),
        ({"api_port": 0}, (), NOW, Invalid, "is no port"),
        ({"csr": "x"}, (), NOW, Invalid, "certificate request"),
        ({"labels": {"a b": "c"}}, (), NOW, Invalid, "label's name"),
        ({"token_id": "00000000"}, (), NOW, Forbidden, "not one of this cluster's"),
        ({"secret": "0" * 32}, (), NOW, Forbidden, "forged"),
        ({}, (spent(TOKEN),), NOW, Forbidden, "already used by host h7"),
        ({}, (), NOW + 7200, Forbidden, "expired 1 hour ago"),
        ({"now": NOW - 3600}, (), NOW, Forbidden, "clock of h2 differs from the cluster's by 1 hour"),
        ({}, (host("h2", address="192.0.2.8"),), NOW, Conflict, "name h2 is taken by the host at 192.0.2.8"),
        ({}, (host("h3", address="192.0.2.2"),), NOW, Conflict, "is that of host h3"),
        ({}, (put("members/h2", Member(host="h2", peer_url="", client_url="")),), NOW, Conflict, "store member"),
        ({}, (put("volumes/db", Volume(name="db", body="", host="h2")),), NOW, Conflict, r"1 volume \(db\)"),
    ],
)
def test_each_refusal_says_which(
    changed: dict[str, object], more: tuple[Change, ...], at: float, kind: type[DroverError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        join_of(cluster(*more), msgspec.structs.replace(WISH, **changed), at)
    assert caught.value.hint


def test_a_stranger_with_a_wrong_secret_learns_no_names() -> None:
    with pytest.raises(Forbidden, match="forged"):
        join_of(cluster(host("h2")), msgspec.structs.replace(WISH, secret="0" * 32), NOW)


def crowded() -> tuple[Change, ...]:
    """Host h2 with a container and a volume."""
    return (
        host("h2"),
        put("containers/c1", Container(id="c1", name="web", body="")),
        put("placements/c1", Placement(container="c1", host="h2")),
        put("volumes/data", Volume(name="data", body="", host="h2")),
    )


def test_a_host_with_something_on_it_is_not_removed_and_says_what() -> None:
    with pytest.raises(Conflict, match=r"h2 still has 1 container \(web\) and 1 volume \(data\)"):
        decide_removal(cluster(*crowded()), "h2", force=False, leaving=True)


def test_a_living_host_is_not_removed_by_others() -> None:
    living = cluster(host("h2"), put("alive/h2", Alive(host="h2", session="s")))
    with pytest.raises(Conflict, match="is alive"):
        decide_removal(living, "h2", force=False, leaving=False)
    assert "h2" not in applied(living, decide_removal(living, "h2", force=False, leaving=True)).hosts


def test_force_removes_it_with_what_it_reported() -> None:
    facts = put("host_facts/h2", HostFacts(host="h2")), put("lost/h2", HostLost(host="h2"))
    before = cluster(*crowded(), *facts, put("container_facts/h2/c1", ContainerFacts(container="c1", host="h2")))
    decision = decide_removal(before, "h2", force=True, leaving=False)
    after = applied(before, decision)
    assert decision.expect == {"hosts/h2": 3}
    assert not {"h2"} & (set(after.hosts) | set(after.host_facts) | set(after.lost))
    assert after.placements["c1"].host == "h2", "where it goes is the scheduler's to decide"
    assert [change.key for change in membership.leftovers(after, "h2")] == ["container_facts/h2/c1"]


def test_the_only_host_stays() -> None:
    with pytest.raises(Conflict, match="only host"):
        decide_removal(cluster(), "h1", force=True, leaving=True)


def test_a_removal_may_be_repeated_while_its_store_member_goes() -> None:
    member = put("members/h2", Member(host="h2", peer_url="", client_url=""))
    assert decide_removal(cluster(member), "h2", force=False, leaving=False).changes == ()
    with pytest.raises(NotFound, match="no host is called h3"):
        decide_removal(cluster(member), "h3", force=False, leaving=False)


def test_labels_are_set_and_removed_and_repeating_changes_nothing() -> None:
    before = cluster(host("h2", labels={"a": "1", "b": "2"}))
    after = applied(before, decide_labels(before, "h2", {"c": "3"}, ["a", "never"]))
    assert after.hosts["h2"].labels == {"b": "2", "c": "3"}
    assert decide_labels(after, "h2", {"c": "3"}, ["a"]).changes == ()


def test_draining_and_back() -> None:
    before = cluster()
    drained = applied(before, decide_scheduling(before, "h1", "drain"))
    assert drained.hosts["h1"].scheduling == "drain"
    assert decide_scheduling(drained, "h1", "drain").changes == ()
    assert applied(drained, decide_scheduling(drained, "h1", "active")).hosts["h1"] == H1


def test_many_things_are_counted_and_not_all_named() -> None:
    volumes = [put(f"volumes/v{n}", Volume(name=f"v{n}", body="", host="h2")) for n in range(9)]
    assert membership.contents(cluster(*volumes), "h2") == "9 volumes (v0, v1, v2, v3, v4, …)"
