"""Imports go one way (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

import drover

ROOT = Path(drover.__file__).parent
LAYERS = [
    {"errors", "wire"},
    {"model"},
    {"decide"},
    {"store", "drivers", "trust", "manifest"},
    {"gateway", "agent", "api"},
    {"daemon"},
    {"lab", "sim", "adapters"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PURE = ("model", "decide", "wire", "manifest")
IMPURE = {"asyncio", "socket", "time", "random", "os", "subprocess", "aiohttp", "secrets", "uuid", "pathlib"}
FILES = sorted(ROOT.rglob("*.py"))


def _package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "drover":
                found |= {f"drover.{alias.name}" for alias in node.names}
    return found


def _drover_packages(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("drover.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = _package(path)
    if here == "__init__":
        return
    for other in _drover_packages(path) - {here, "__version__", "__init__"}:
        assert LEVEL[other] < LEVEL[here] or other == "errors", f"{here} must not import {other}"


@pytest.mark.parametrize("path", [p for p in FILES if _package(p) in PURE], ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_packages_do_no_io(path: Path) -> None:
    used = {name.split(".")[0] for name in _imports(path)} & IMPURE
    assert not used, f"{path.name} is pure and must not import {sorted(used)}"
