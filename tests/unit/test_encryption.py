"""Encryption between hosts: who is whose peer, who may join, and what a machine that cannot is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from cluster_factory import address, container, network, world
from hypothesis import given
from hypothesis import strategies as st
from test_api_membership import H1, NOW, WISH, host, join_of
from test_api_membership import cluster as clear_cluster

from drover.api.founding import founding_changes
from drover.cli import enrol
from drover.cli import main as cli
from drover.daemon.config import load_bootstrap, load_config
from drover.decide.addresses import subnet_for
from drover.decide.doctor import record_doubts
from drover.decide.encryption import (
    DEVICE,
    ENCRYPTION_KEY,
    MAX_INDEX,
    WIREGUARD,
    TunnelPeer,
    carried_bytes,
    is_encrypted,
    through,
    tunnel,
    vtep,
)
from drover.decide.overlay import peers
from drover.decide.tables import host_networks
from drover.drivers.network.wireguard import KERNEL, PRICE, USERSPACE, configuration
from drover.errors import Conflict, Forbidden, Invalid, MissingTool
from drover.model.cluster import Change, Cluster, put
from drover.model.records import Alive, Host, Setting, key
from drover.trust.wireguard import check_public_key, private_key, public_key

ON = put(ENCRYPTION_KEY, Setting(value=WIREGUARD))
NET = "a" * 64
PUBLIC = "3sqQHct2ulCa5PPubMdR8CRV0Ak9W5WdDlBrXvNbwlo="


def member(index: int, **fields: object) -> list[Change]:
    record = Host(name=f"h{index}", id="1", index=index, address=f"192.0.2.{index}", wireguard_key=f"key{index}")
    changed = msgspec.structs.replace(record, **fields)
    return [
        put(key("hosts", record.name), changed),
        put(key("alive", record.name), Alive(host=record.name, session="s")),
    ]


def encrypted(*parts: list[Change]) -> Cluster:
    return world([ON], *parts)


def test_hosts_are_each_others_peers_and_vxlan_runs_within() -> None:
    app = [*network(NET, "app", "10.44.0.0/24", gateway="10.44.0.1", vni=4096)]
    placed = [*container(1, "web", "h1"), *container(2, "db", "h2"), *address(NET, "10.44.0.2", 1)]
    cluster = encrypted(member(1), member(2), app, placed, address(NET, "10.44.0.3", 2))
    own = tunnel(cluster, "h1", 1450)
    assert own is not None
    assert (own.address, own.mtu_bytes) == ("10.126.0.1", 1420)
    assert own.peers == {TunnelPeer("key2", "192.0.2.2", "10.126.0.2")}
    real = host_networks(cluster, "h1", carried_bytes(cluster, 1450))[NET]
    assert (real.underlay, real.through, real.mtu_bytes) == ("10.126.0.1", DEVICE, 1370)
    assert {one.vtep for one in real.remotes} == {"10.126.0.2"}
    assert (peers(cluster, "h1"), through(cluster)) == ({"10.126.0.2"}, DEVICE)


def test_a_host_without_a_key_is_nobodys_peer_and_named() -> None:
    cluster = encrypted(member(1), member(2, wireguard_key=""), member(3))
    own = tunnel(cluster, "h1", 1450)
    assert own is not None
    assert {one.underlay for one in own.peers} == {"192.0.2.3"}
    assert peers(cluster, "h1") == {"10.126.0.3"}
    assert record_doubts(cluster) == ["host h2 cannot encrypt: nothing is sent to it"]


def test_a_cluster_in_clear_has_no_tunnel() -> None:
    cluster = world(member(1, wireguard_key=""), member(2, wireguard_key=""))
    assert tunnel(cluster, "h1", 1450) is None
    assert (is_encrypted(cluster), through(cluster), carried_bytes(cluster, 1450)) == (False, "", 1450)
    assert (vtep(cluster.hosts["h2"]), peers(cluster, "h1")) == ("192.0.2.2", {"192.0.2.2"})
    assert tunnel(encrypted(), "h9", 1450) is None


@given(st.sets(st.integers(1, MAX_INDEX), min_size=2, max_size=6))
def test_every_pair_of_hosts_names_each_other(indexes: set[int]) -> None:
    cluster = encrypted(*[member(index) for index in indexes])
    ends = {name: tunnel(cluster, name, 1450) for name in cluster.hosts}
    assert len({end.address for end in ends.values() if end}) == len(indexes)
    for name, end in ends.items():
        assert end is not None
        told = {(one.public_key, one.address) for one in end.peers}
        assert told == {(one.wireguard_key, vtep(one)) for one in cluster.hosts.values() if one.name != name}


def test_no_network_overlaps_the_tunnels() -> None:
    body = '{"IPAM": {"Config": [{"Subnet": "10.126.7.0/24"}]}}'
    assert subnet_for(world(), "app", body)[0] == "10.126.7.0/24"
    with pytest.raises(Forbidden, match="Pool overlaps"):
        subnet_for(encrypted(), "app", body)


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_host_that_cannot_encrypt_cannot_join() -> None:
    wish = msgspec.structs.replace(WISH, lacks="the kernel of this host has no WireGuard")
    with pytest.raises(Forbidden) as refused:
        join_of(clear_cluster(ON), wish, NOW)
    told = "this cluster encrypts what containers say between hosts, and h2 cannot: "
    assert refused.value.message == told + wish.lacks
    assert "--encrypt wireguard-go" in refused.value.hint


def test_a_host_joins_with_its_key() -> None:
    wish = msgspec.structs.replace(WISH, wireguard_key=PUBLIC)
    joined = join_of(clear_cluster(ON), wish, NOW).host
    assert joined is not None
    assert joined.wireguard_key == PUBLIC
    in_clear = join_of(clear_cluster(), wish, NOW).host
    assert in_clear is not None
    assert in_clear.wireguard_key == ""


def test_who_insists_on_encryption_is_in_no_clear_cluster() -> None:
    wish = msgspec.structs.replace(WISH, wireguard_key=PUBLIC, insists=True)
    with pytest.raises(Conflict, match="does not encrypt"):
        join_of(clear_cluster(), wish, NOW)


def test_a_key_must_be_one_and_addresses_last() -> None:
    for text in ("short", "!!", PUBLIC[:-4]):
        with pytest.raises(Invalid, match="no WireGuard key"):
            join_of(clear_cluster(ON), msgspec.structs.replace(WISH, wireguard_key=text), NOW)
    full = clear_cluster(ON, host("h9", index=MAX_INDEX))
    with pytest.raises(Conflict, match=f"addresses for {MAX_INDEX} hosts"):
        join_of(full, msgspec.structs.replace(WISH, wireguard_key=PUBLIC), NOW)


def test_a_cluster_is_founded_encrypted_or_not() -> None:
    assert is_encrypted(Cluster().apply(1, founding_changes(H1, "test", encrypted=True)))
    assert not is_encrypted(Cluster().apply(1, founding_changes(H1, "test")))


# -- this machine ------------------------------------------------------------------------------------------------------


def test_keys_are_made_once_and_their_public_half_follows(tmp_path: Path) -> None:
    private = private_key(tmp_path)
    assert private_key(tmp_path) == private
    assert check_public_key(public_key(private)) == public_key(private) != private
    assert (tmp_path / "wireguard.key").stat().st_mode & 0o777 == 0o600


def test_what_wg_is_told() -> None:
    cluster = encrypted(member(1), member(2, address="2001:db8::2"), member(3))
    own = tunnel(cluster, "h1", 1450)
    assert own is not None
    assert configuration(own, "secret") == (
        "[Interface]\nPrivateKey = secret\nListenPort = 51820\n"
        "[Peer]\nPublicKey = key2\nEndpoint = [2001:db8::2]:51820\nAllowedIPs = 10.126.0.2/32\n"
        "[Peer]\nPublicKey = key3\nEndpoint = 192.0.2.3:51820\nAllowedIPs = 10.126.0.3/32\n"
    )


def run_init(directory: Path, *more: str) -> Result:
    files = ("--state-dir", str(directory / "state"), "--run-dir", str(directory / "run"), *more)
    return CliRunner().invoke(
        cli.main,
        ["init", "--name", "h1", "--address", "127.0.0.1", "--no-service", "--store", "https://127.0.0.1:2379", *files],
    )


def test_init_refuses_what_it_cannot_do_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(asked: str) -> str:
        raise MissingTool("the kernel of this host has no WireGuard", hint=f"accept wireguard-go ({PRICE})")

    monkeypatch.setattr(enrol, "can_encrypt", cannot)
    done = run_init(tmp_path, "--encrypt")
    assert (done.exit_code, done.stdout) == (MissingTool.exit_code, "")
    assert "the kernel of this host has no WireGuard" in done.stderr
    assert PRICE in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("means", "noted"), [(KERNEL, False), (USERSPACE, True)])
def test_init_keeps_how_the_host_encrypts_and_states_the_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, means: str, noted: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(enrol, "can_encrypt", lambda wish: asked.append(wish) or means)
    done = run_init(tmp_path, "--encrypt", means)
    assert done.exit_code == 0, done.stderr
    assert (PRICE in done.stderr) == noted
    config, first = load_config(tmp_path / "state"), load_bootstrap(tmp_path / "state")
    assert first is not None
    assert (config.encryption, asked) == (means, [means])
    assert first.wireguard_key == public_key(private_key(config.tls_dir))


def test_without_the_word_nothing_is_encrypted_nor_asked(tmp_path: Path) -> None:
    assert run_init(tmp_path).exit_code == 0
    first = load_bootstrap(tmp_path / "state")
    assert first is not None
    assert (load_config(tmp_path / "state").encryption, first.wireguard_key) == ("", "")
