"""A package put off: its parts are there, and the whole of it when somebody asks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from drover.drivers.network.netlink import put_off


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that notes whether its own code has run, with one part."""
    home = tmp_path / "putoffpackage"
    home.mkdir()
    (home / "__init__.py").write_text("from putoffpackage.part import value\nran = True\n")
    (home / "part.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("putoffpackage", "putoffpackage.part"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return home.name


def test_a_part_is_imported_without_the_package(package: str):
    put_off(package)
    from putoffpackage.part import value

    assert value == 7
    assert "ran" not in vars(sys.modules[package])


def test_who_asks_for_a_name_gets_the_whole_package(package: str):
    put_off(package)
    import putoffpackage

    assert putoffpackage.ran
    with pytest.raises(AttributeError):
        putoffpackage.nothing  # noqa: B018


def test_a_package_that_was_imported_stays(package: str):
    import putoffpackage

    put_off(package)
    assert sys.modules[package] is putoffpackage
