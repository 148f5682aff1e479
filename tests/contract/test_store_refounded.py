"""A store whose majority is gone for good, founded anew from one member's data: every record and version is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from etcd_cluster import make_tls, member_configs, ready

from drover.daemon.config import HostConfig
from drover.daemon.etcd_process import EtcdProcess
from drover.daemon.member import StoreMember
from drover.errors import Unavailable
from drover.model import records as r
from drover.model.cluster import put
from drover.store.etcd import EtcdStore
from drover.store.etcd_members import members

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(120)]


async def test_one_member_of_three_goes_on_alone_with_all_records(tmp_path: Path) -> None:
    tls = make_tls(tmp_path / "tls")
    configs = member_configs(tmp_path, ["h1", "h2", "h3"], tls.files)
    processes = [EtcdProcess(config) for config in configs]
    await asyncio.gather(*(process.start() for process in processes))
    store = EtcdStore([configs[0].client_url], tls.client)
    host = HostConfig(
        name="h1", id="x", index=1, address=configs[0].address, cluster_name="c", state_dir=str(tmp_path / "state")
    )
    member = StoreMember(host, lambda _: [configs[0].client_url])
    member._process = processes[0]
    try:
        await ready(store)
        volume = r.Volume(name="data", body="", host="h1", epoch=7)
        revision = await store.commit([put("volumes/data", volume)])
        await asyncio.gather(processes[1].stop(), processes[2].stop())
        with pytest.raises(Unavailable):
            await store.snapshot()
        await member.refound(store)
        await ready(store)
        found = await store.snapshot()
        assert found.volumes["data"] == volume
        assert found.version("volumes/data") == revision
        assert [one.name for one in await members(store.http)] == ["h1"]
        assert await store.commit([put("volumes/other", volume)]) > revision
    finally:
        await member.stop()
        await asyncio.gather(*(process.stop() for process in processes))
        await store.close()
