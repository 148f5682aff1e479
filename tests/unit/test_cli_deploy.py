"""`drover deploy` and its kin as a person meets them: a real API in memory, and a leader in three lines."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_world import World, alive, world
from click.testing import CliRunner, Result

from drover.api.apps import app_routes
from drover.api.server import ApiServer
from drover.cli import compose
from drover.cli import main as cli
from drover.cli.compose import Asked, canonical_form, request_of
from drover.errors import Invalid, MissingTool
from drover.manifest.bare import as_compose, is_bare
from drover.model.apps import Rollout
from drover.model.cluster import put
from drover.model.records import Deployment, key

BARE = """helloworld:
  image: binocarlos/hello
  cmd: echo "hello world!"
backflip:
  image: binocarlos/backflip
  cmd: jump --count 3
"""
SHOP = {
    "name": "shop",
    "services": {"web": {"image": "busybox", "deploy": {"replicas": 2}, "networks": {"default": None}}},
}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        await made.server.stop()
        made.server = ApiServer(made.context(), app_routes())
        await made.server.start(made.socket, "", "127.0.0.1", 0)
        await made.commit(*alive("h1"))
        yield made


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Compose says what the test says."""
    said: dict[str, Any] = dict(SHOP)
    monkeypatch.setattr(compose, "canonical_form", lambda asked: said)
    return said


async def drover(served: World, *arguments: str) -> Result:
    return await asyncio.to_thread(
        CliRunner().invoke, cli.main, ["--host", f"unix://{served.socket}", *arguments], catch_exceptions=False
    )


async def test_a_deployment_that_is_not_waited_for(served: World, scripted: dict[str, Any]) -> None:
    first = await drover(served, "deploy", "--detach")
    assert (first.exit_code, first.stdout) == (0, "shop is being deployed\n")
    assert served.cluster.apps["shop"].services["web"].replicas == 2
    again = await drover(served, "deploy", "--detach")
    assert again.stdout == "shop is deployed like that already\n"
    assert served.cluster.apps["shop"].number == 1


async def test_what_is_missing_is_said_at_the_deadline(served: World, scripted: dict[str, Any]) -> None:
    found = await drover(served, "deploy", "--timeout", "0.3")
    assert found.exit_code == 8
    assert "network shop_default is not made yet" in found.stderr
    assert "shop-web-2 is not made yet" in found.stderr


async def test_a_failure_ends_the_wait_at_once(served: World, scripted: dict[str, Any]) -> None:
    await drover(served, "deploy", "--detach")
    version = served.cluster.apps["shop"].services["web"].hash
    halted = Rollout(to=version, state="paused", why="1 container of web failed: it is sick")
    await served.commit(put(key("deployments", "shop"), Deployment(app="shop", rollouts={"web": halted})))
    found = await drover(served, "scale", "shop/web=3")
    assert found.exit_code == 5
    assert "the update of web stands still: 1 container of web failed: it is sick" in found.stderr


async def test_strict_refuses_what_is_not_honoured(served: World, scripted: dict[str, Any]) -> None:
    scripted["services"] = {"web": {**SHOP["services"]["web"], "attach": True}}  # type: ignore[index]
    refused = await drover(served, "deploy", "--strict", "--detach")
    assert refused.exit_code == 2
    assert "services.web.attach is not honoured" in refused.stderr
    assert "shop" not in served.cluster.apps
    named = await drover(served, "deploy", "--detach")
    assert named.exit_code == 0
    assert "warning: services.web.attach is not honoured" in named.stderr


async def test_the_plan_shows_where_and_why(served: World, scripted: dict[str, Any]) -> None:
    found = await drover(served, "plan")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["CHANGE", "WHAT", "NAME", "HOST", "WHY"]
    assert lines[2].split()[:4] == ["create", "container", "shop-web-1", "h1"]
    assert "shop" not in served.cluster.apps
    shown = json.loads((await drover(served, "plan", "--json")).stdout)
    assert shown["unchanged"] is False


async def test_a_plan_that_cannot_be_says_so(served: World, scripted: dict[str, Any]) -> None:
    scripted["services"] = {"web": {**SHOP["services"]["web"], "mem_limit": "99g"}}  # type: ignore[index]
    found = await drover(served, "plan")
    assert found.exit_code == 5
    assert "cannot create" in found.stdout


async def test_lists_and_inspections(served: World, scripted: dict[str, Any]) -> None:
    await drover(served, "deploy", "--detach")
    listed = await drover(served, "app", "ls")
    assert listed.stdout.splitlines()[1].split()[:4] == ["shop", "working", "1", "0/2"]
    shown = (await drover(served, "app", "inspect", "shop")).stdout
    assert "web (replicated, busybox): 0/2" in shown
    assert json.loads((await drover(served, "app", "inspect", "shop", "--json")).stdout)["name"] == "shop"
    assert json.loads((await drover(served, "app", "ls", "--json")).stdout)[0]["wanted"] == 2


async def test_secrets_are_not_shown(served: World, scripted: dict[str, Any]) -> None:
    scripted["services"] = {"web": {**SHOP["services"]["web"], "secrets": [{"source": "pw"}]}}  # type: ignore[index]
    scripted["secrets"] = {"pw": {"content": "very secret"}}
    await drover(served, "deploy", "--detach")
    assert [base64.b64decode(one.content) for one in served.cluster.files.values()] == [b"very secret"]
    shown = await drover(served, "app", "inspect", "shop", "--json")
    container = served.cluster.apps["shop"].services["web"].body
    for text in (shown.stdout, container):
        assert "very secret" not in text
        assert base64.b64encode(b"very secret").decode() not in text


async def test_removal(served: World, scripted: dict[str, Any]) -> None:
    await drover(served, "deploy", "--detach")
    found = await drover(served, "rm", "shop", "--detach")
    assert found.stdout == "shop is being removed; its volumes are kept\n"
    assert served.cluster.apps["shop"].removed
    assert not served.cluster.apps["shop"].remove_volumes
    again = await drover(served, "deploy", "--detach")
    assert again.exit_code == 5
    assert "is being removed" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("app", "inspect", "nothing"), 4, "no application is called nothing"),
        (("rm", "nothing"), 4, "no application is called nothing"),
        (("rollback", "nothing"), 4, "no application is called nothing"),
        (("scale", "shop=3"), 2, "is not of the form APP/SERVICE=N"),
        (("scale", "shop/web=many"), 2, "is not of the form APP/SERVICE=N"),
        (("deploy", "-f", "nowhere.yaml"), 2, "there is no file nowhere.yaml"),
    ],
)
async def test_errors_say_what_to_do(served: World, arguments: tuple[str, ...], code: int, says: str) -> None:
    found = await drover(served, *arguments)
    assert found.exit_code == code
    assert says in found.stderr
    assert "hint: " in found.stderr or code == 2


async def test_what_is_no_canonical_form_is_refused(served: World) -> None:
    with pytest.raises(Invalid, match="is not in Compose's canonical form"):
        await served.call("POST", "/apps/shop", {"compose": {"services": {"web": {"image": "x", "ports": ["80"]}}}})


# -- reading manifests ---------------------------------------------------------------------------


def test_the_bare_form_is_known() -> None:
    document = yaml.safe_load(BARE)
    assert is_bare(document)
    assert as_compose(document) == {
        "services": {
            "helloworld": {"image": "binocarlos/hello", "command": 'echo "hello world!"'},
            "backflip": {"image": "binocarlos/backflip", "command": "jump --count 3"},
        }
    }


@pytest.mark.parametrize("document", [{}, [], None, {"services": {}}, {"web": {"cmd": "x"}}, {"web": "nginx"}])
def test_what_is_not_bare_is_left_to_compose(document: Any) -> None:
    assert not is_bare(document)


def test_two_words_for_the_same_thing_are_refused() -> None:
    with pytest.raises(Invalid, match="both cmd and command"):
        as_compose({"web": {"image": "x", "cmd": "a", "command": "b"}})


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory to write manifests in; skips where there is no Compose."""
    try:
        compose._program()
    except MissingTool:
        pytest.skip("there is no Compose v2: tools/clients fetches it")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bare_form_is_split_as_compose_splits(real: Path) -> None:
    (real / "compose.yaml").write_text(BARE)
    services = canonical_form(Asked(name="demo"))["services"]
    assert services["helloworld"]["command"] == ["echo", "hello world!"]
    assert services["backflip"]["command"] == ["jump", "--count", "3"]


def test_an_override_beside_it_is_merged(real: Path) -> None:
    (real / "compose.yaml").write_text("services: {web: {image: a}}")
    (real / "compose.override.yaml").write_text("services: {web: {image: b}}")
    assert canonical_form(Asked())["services"]["web"]["image"] == "b"


def test_profiles_variables_and_names_are_passed_on(real: Path) -> None:
    (real / "m.yaml").write_text("services: {web: {image: 'a:$TAG'}, extra: {image: b, profiles: [more]}}")
    (real / "vars").write_text("TAG=7\n")
    found = canonical_form(Asked(["m.yaml"], "shop", ["more"], ["vars"]))
    assert (found["name"], found["services"]["web"]["image"], "extra" in found["services"]) == ("shop", "a:7", True)


def test_contents_come_from_files_variables_and_the_manifest(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "from the environment")
    (real / "f").write_bytes(b"\x00binary")
    (real / ".env").write_text("THERE=from the file\n")
    (real / "compose.yaml").write_text(
        "services: {web: {image: a, configs: [f, c], secrets: [e, t]}}\n"
        "configs: {f: {file: ./f}, c: {content: 'in $$ line'}}\n"
        "secrets: {e: {environment: HERE}, t: {environment: THERE}}\n"
    )
    _, body = request_of(Asked())
    found = {key: base64.b64decode(text) for table in ("configs", "secrets") for key, text in body[table].items()}
    assert found == {"f": b"\x00binary", "c": b"in $ line", "e": b"from the environment", "t": b"from the file"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("services: {web: {image: a, secrets: [s]}}\nsecrets: {s: {environment: NOT_SET_ANYWHERE}}", "is not set here"),
        ("services: {web: {image: a, secrets: [s]}}\nsecrets: {s: {file: ./none}}", "cannot be read from"),
        ("services: {web: {image: a, secrets: [s]}}\nsecrets: {s: {external: true}}", "secret s is external"),
        ("services: {web: {imagine: a}}", "the manifest cannot be read"),
        ("services: [", "the manifest cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(real: Path, text: str, says: str) -> None:
    (real / "compose.yaml").write_text(text)
    with pytest.raises(Invalid, match=says):
        request_of(Asked())


def test_without_compose_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "docker-compose"
    old.write_text("#!/bin/sh\necho 1.29.2\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DROVER_COMPOSE", str(old))
    compose._program.cache_clear()
    try:
        with pytest.raises(MissingTool, match="there is none here") as missing:
            compose._program()
    finally:
        compose._program.cache_clear()
    assert "docker-compose-plugin" in missing.value.hint
