"""For all tests: hypothesis judges results and never speed, because machines that run tests are busy; and tests that
need more than Python are where `make test` looks for them, because it does not read all tests each time."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("drover", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("drover")

DIRECTORIES = {"lab": ("lab", "contract"), "alone": ("lab",), "etcd": ("contract",)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    astray = [
        f"{item.nodeid} is marked {mark} and not in tests/{' or tests/'.join(directories)}"
        for mark, directories in DIRECTORIES.items()
        for item in items
        if item.get_closest_marker(mark) and item.path.parent.name not in directories
    ]
    if astray:
        raise pytest.UsageError(*astray)
