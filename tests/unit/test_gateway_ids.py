"""Ids in what engines say: every known one becomes the cluster's, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

from cluster_factory import cid, container, host, world
from hypothesis import given
from hypothesis import strategies as st

from drover.gateway import ids
from drover.gateway.ids import IdMap
from drover.model import records as r
from drover.model.cluster import Change, put
from drover.store.port import Batch

WEB, ENGINE_WEB = cid(1), "a" * 64
NET, ENGINE_NET = cid(2), "b" * 64
OTHER = "d" * 64


def known() -> IdMap:
    made = IdMap()
    network = put(r.key("network_facts", "h1", NET), r.NetworkFacts(network=NET, host="h1", engine_id=ENGINE_NET))
    made.rebuild(world(host("h1"), container(1, "web", engine_id=ENGINE_WEB), [network]))
    return made


def edited(text: str) -> str:
    return known().to_cluster(text.encode()).decode()


def test_exact_strings_keys_and_shared_namespaces_are_replaced() -> None:
    before = {"Id": ENGINE_WEB, "Nets": {ENGINE_NET: {}}, "NetworkMode": f"container:{ENGINE_WEB}"}
    after = {"Id": WEB, "Nets": {NET: {}}, "NetworkMode": f"container:{WEB}"}
    assert json.loads(edited(json.dumps(before))) == after


def test_what_is_not_exactly_a_known_id_stays() -> None:
    path = f"/var/lib/docker/containers/{ENGINE_WEB}/hosts"
    body = json.dumps({"Id": OTHER, "Path": path, "Longer": ENGINE_WEB + "a", "Quoted": f'x"{ENGINE_WEB}'})
    assert edited(body) == body


def test_labels_show_the_host_and_hide_the_epoch() -> None:
    for labels in (
        {"drover.epoch": "7", "drover.id": WEB},
        {"a": "b", "drover.epoch": "7", "drover.id": WEB, "z": "1"},
    ):
        shown = {name: value for name, value in labels.items() if not name.startswith("drover.")}
        text = json.dumps({"Labels": labels}, separators=(",", ":"))
        assert json.loads(edited(text)) == {"Labels": {**shown, "drover.host": "h1"}}
    assert edited('{"a":"b","drover.epoch":"7"}') == '{"a":"b"}'
    assert edited('{"drover.epoch":"7"}') == "{}"


def test_messages_name_the_cluster_id() -> None:
    told = f'{{"message":"You cannot remove a running container {ENGINE_WEB}. Stop {OTHER}"}}'
    assert edited(told) == told.replace(ENGINE_WEB, WEB)


def test_a_removed_container_is_known_for_a_while() -> None:
    made = known()
    key = r.key("container_facts", "h1", WEB)
    made.observe(Batch(9, (Change(key, None), Change(r.key("placements", WEB), None))))
    text = f'{{"id":"{ENGINE_WEB}","drover.id":"{WEB}"}}'.encode()
    assert made.to_cluster(text) == f'{{"id":"{WEB}","drover.host":"h1"}}'.encode()
    for number in range(ids.KEPT_AFTER_REMOVAL):
        made.mention(f"{number:064x}", WEB, "h1")
    assert made.cluster_id(ENGINE_WEB) is None


def test_a_new_engine_id_takes_the_place_of_the_old_one() -> None:
    made = known()
    moved = r.ContainerFacts(container=WEB, host="h1", engine_id=OTHER)
    made.observe(Batch(9, (put(r.key("container_facts", "h1", WEB), moved),)))
    assert (made.cluster_id(OTHER), made.cluster_id(ENGINE_WEB)) == (WEB, WEB)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([OTHER, f"x{ENGINE_WEB}", ENGINE_WEB[:12]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_bodies_without_known_ids_are_unchanged(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
        assert edited(text) == text


with_ids = st.recursive(
    st.text(max_size=4) | st.sampled_from([ENGINE_WEB, f"container:{ENGINE_NET}", f'"{ENGINE_WEB}', OTHER]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["k", ENGINE_NET, 'q"']), inner),
    max_leaves=12,
)


def replaced(value: Any) -> Any:
    """What an edited body must decode to."""
    names = {ENGINE_WEB: WEB, ENGINE_NET: NET, f"container:{ENGINE_NET}": f"container:{NET}"}
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [replaced(item) for item in value]
    return {names.get(name, name): replaced(item) for name, item in value.items()}


@given(with_ids)
def test_edited_bodies_decode_to_the_same_but_for_ids(value: Any) -> None:
    text = json.dumps(value)
    assert json.loads(edited(text)) == replaced(value)
    assert len(edited(text)) == len(text)
