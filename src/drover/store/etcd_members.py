"""etcd's calls about its own members. Changes are sent once: after `AnswerLost`, look at the list again."""

from __future__ import annotations

from typing import Any

import msgspec

from drover.decide.quorum import EtcdMember
from drover.store.etcd_http import EtcdHttp, Refused

Json = dict[str, Any]
FAILED_PRECONDITION = 9
"""gRPC's status code of a promotion that comes too early."""


class MemberStatus(msgspec.Struct, frozen=True):
    """What a member says of itself. `leader_id` is empty while it knows none."""

    member_id: str
    leader_id: str
    version: str
    db_bytes: int
    raft_index: int
    learner: bool


async def members(http: EtcdHttp) -> list[EtcdMember]:
    """All members, voters and learners, by id."""
    answer = (await http.call("/v3/cluster/member/list", {})).body
    return sorted(map(_member, answer.get("members", [])), key=lambda member: member.id)


async def member_add(http: EtcdHttp, peer_url: str, *, learner: bool = True) -> EtcdMember:
    """Announce a member that will start later. Raises `Refused` if etcd thinks the quorum would suffer."""
    request = {"peerURLs": [peer_url], "isLearner": learner}
    return _member((await http.call("/v3/cluster/member/add", request, repeatable=False)).body["member"])


async def member_promote(http: EtcdHttp, member_id: str) -> bool:
    """Give a learner its vote; False if it has not caught up yet."""
    try:
        await http.call("/v3/cluster/member/promote", {"ID": member_id}, repeatable=False)
    except Refused as error:
        if error.code == FAILED_PRECONDITION:
            return False
        raise
    return True


async def member_remove(http: EtcdHttp, member_id: str) -> None:
    await http.call("/v3/cluster/member/remove", {"ID": member_id}, repeatable=False)


async def member_status(http: EtcdHttp, endpoint: str) -> MemberStatus:
    """Ask one member about itself; `Unavailable` if it does not answer."""
    answer = await http.call_at(endpoint, "/v3/maintenance/status", {})
    return MemberStatus(
        member_id=answer["header"]["member_id"],
        leader_id=answer.get("leader", ""),
        version=answer.get("version", ""),
        db_bytes=int(answer.get("dbSize", 0)),
        raft_index=int(answer.get("raftIndex", 0)),
        learner=bool(answer.get("isLearner")),
    )


def _member(row: Json) -> EtcdMember:
    return EtcdMember(
        id=row["ID"],
        peer_url=row.get("peerURLs", [""])[0],
        name=row.get("name", ""),
        client_url=row.get("clientURLs", [""])[0],
        learner=bool(row.get("isLearner")),
    )
