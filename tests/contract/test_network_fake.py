"""The network driver in memory keeps the contract."""

from __future__ import annotations

import pytest
from network_contract import UNDERLAY, NetworkContract

from drover.drivers.network.fake import FakeNetwork


class TestFakeNetwork(NetworkContract):
    @pytest.fixture
    def driver(self) -> FakeNetwork:
        return FakeNetwork(underlay=UNDERLAY)
