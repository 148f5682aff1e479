"""The CLI as a person meets it: help, errors, exit codes, and each command against a real API."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import click
import pytest
from api_world import World, alive, world
from click.testing import CliRunner, Result

from drover.cli import main as cli
from drover.cli import output
from drover.cli.tokens import seconds
from drover.errors import DroverError, Invalid
from drover.model.cluster import put
from drover.model.records import Container, Name, Placement

NAMES = list(cli.COMMANDS)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environment)


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its full name, groups included."""
    top = [(name, cli.main.get_command(click.Context(cli.main), name)) for name in NAMES]
    found: list[tuple[str, click.Command]] = []
    for name, command in top:
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", each) for sub, each in command.commands.items()]
    return found


def test_help_lists_every_command_with_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_command_s_help_has_an_example(name: str, command: click.Command) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0, result.stderr
    assert "Example:" in result.stdout
    assert f"drover {name.split()[0]}" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == cli.COMMANDS[name][1]


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from drover.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'aiohttp', 'cryptography', 'msgspec', 'asyncio', 'ssl', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert run("--version").stdout.startswith("drover 0.")


def test_no_arguments_show_help() -> None:
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: drover")


def test_a_wrong_command_is_an_error_with_a_hint() -> None:
    result = run("hosts")
    assert result.exit_code == 2
    assert result.stderr.startswith("drover: No such command 'hosts'")
    assert "hint: see `drover --help`" in result.stderr


def test_no_daemon_is_said_with_what_to_do(tmp_path: Path) -> None:
    result = run("host", "ls", DROVER_HOST=f"unix://{tmp_path}/none.sock")
    assert result.exit_code == 7
    assert result.stderr.startswith(f"drover: no drover daemon listens on {tmp_path}/none.sock\nhint: start it")


def test_a_wrong_address_of_the_daemon_is_refused() -> None:
    result = run("--host", "tcp://192.0.2.1:4740", "status")
    assert result.exit_code == 2
    assert "is no address of a drover daemon" in result.stderr


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drover.cli.client.Client.call", interrupted)
    result = run("host", "ls")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_drover(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_DROVER_COMPLETE" in result.stdout


def test_completion_completes_commands() -> None:
    result = run(_DROVER_COMPLETE="bash_complete", COMP_WORDS="drover to", COMP_CWORD="1")
    assert result.stdout.strip() == "plain,token"


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)])
def test_durations(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "1y", "-1h", "1.5h", "1h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is no duration"):
        seconds(text)


def test_tables_are_padded_and_have_no_trailing_space(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("NAME", "STATE"), [("h1", "ready"), ("longer", "")])
    assert capsys.readouterr().out == "NAME     STATE\nh1       ready\nlonger\n"


def test_an_empty_table_has_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("NAME", "STATE"), [])
    assert capsys.readouterr().out == "NAME   STATE\n"


@pytest.mark.parametrize(("at", "text"), [(0.0, "-"), (40.0, "1 minute ago"), (100.0, "0 seconds ago")])
def test_moments_are_said_as_ages(at: float, text: str) -> None:
    assert output.ago(at, now=100.0) == text


Run = Callable[..., Any]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        await made.commit(*alive("h1"))
        yield made


@pytest.fixture
def drover(api: World) -> Run:
    """Runs a command against the API; returns its stdout, or its result if `code` is given and not 0."""

    async def call(*arguments: str, code: int = 0) -> Any:
        result = await asyncio.to_thread(run, *arguments, DROVER_HOST=f"unix://{api.socket}")
        assert result.exit_code == code, result.output
        return result.stderr if code else result.stdout

    return call


async def test_host_ls_is_a_table_and_json(drover: Run) -> None:
    heads, row = (await drover("host", "ls")).splitlines()
    assert " ".join(heads.split()) == "NAME ADDRESS STATE ENGINE CPUS MEMORY CONTAINERS VOLUMES STORE LABELS"
    assert row.split() == ["h1", "127.0.0.1", "ready", "20.10.24", "2", "4", "GiB", "0", "0", "-", "-"]
    (host,) = json.loads(await drover("host", "ls", "--json"))
    assert host["state"] == "ready"


async def test_host_inspect_is_json(drover: Run) -> None:
    assert json.loads(await drover("host", "inspect", "h1"))["name"] == "h1"
    assert "no host is called h9" in await drover("host", "inspect", "h9", code=4)


async def test_labels_are_set_and_removed(drover: Run) -> None:
    assert await drover("host", "label", "h1", "b=2", "a=x-") == "a=x-,b=2\n"
    assert await drover("host", "label", "h1", "b-") == "a=x-\n"
    assert await drover("host", "label", "h1", "a-") == "host h1 has no labels\n"


@pytest.mark.parametrize("labels", [("plain",), ("=x",), ("-",), ("a=1", "a-")])
async def test_wrong_labels_are_refused(drover: Run, labels: tuple[str, ...]) -> None:
    assert "hint:" in await drover("host", "label", "h1", "--", *labels, code=2)


async def test_drain_and_undrain(api: World, drover: Run) -> None:
    assert "host h1 is empty" in await drover("host", "drain", "h1")
    assert api.cluster.hosts["h1"].scheduling == "drain"
    assert "undo: drover host undrain h1" in await drover("host", "pause", "h1")
    assert api.cluster.hosts["h1"].scheduling == "pause"
    await drover("host", "undrain", "h1")
    assert api.cluster.hosts["h1"].scheduling == "active"


async def test_what_changes_a_host_or_token_answers_in_json_too(drover: Run) -> None:
    for arguments in (("label", "h1", "a=1"), ("taint", "h1", "t=1"), ("pause", "h1"), ("undrain", "h1")):
        assert json.loads(await drover("host", *arguments, "--json"))["name"] == "h1"
    ident = (await drover("token", "create", "--quiet")).split("-")[1]
    assert json.loads(await drover("token", "rm", ident, "--json")) == {"removed": ident}


async def test_the_only_host_cannot_be_removed(drover: Run) -> None:
    assert "only host" in await drover("host", "rm", "h1", "--force", code=5)


async def test_status_is_sentences_and_json(drover: Run) -> None:
    shown = await drover("status")
    assert "Cluster:     test\n" in shown
    assert "Hosts:       1 ready\n" in shown
    assert "Engine:      20.10.24 answers\n" in shown
    assert "Certificate: renewed by itself; ends in 89 days" in shown
    assert json.loads(await drover("status", "--json"))["leader"] == "h1"


async def test_a_token_s_life(api: World, drover: Run) -> None:
    text = (await drover("token", "create", "--quiet", "--ttl", "5m")).strip()
    ident = text.split("-")[1]
    assert api.cluster.tokens[ident].expires_at == api.now + 300
    assert (await drover("token", "ls")).splitlines()[1].split()[:3] == [ident, "valid", "no"]
    assert await drover("token", "rm", ident) == f"{ident}\n"
    assert "no token has the id" in await drover("token", "rm", ident, code=4)
    assert json.loads(await drover("token", "ls", "--json")) == []


async def test_a_token_comes_with_the_command_to_run(drover: Run) -> None:
    shown = await drover("token", "create", "--reusable")
    assert "For any number of hosts, within 1h." in shown
    assert "  drover join 127.0.0.1 --token DROVER1-" in shown
    assert json.loads(await drover("token", "create", "--json"))["token"].startswith("DROVER1-")


async def test_why_says_the_reasons(api: World, drover: Run) -> None:
    reasons = {"h1": "has the most free memory", "h2": "is draining"}
    await api.commit(
        put("containers/c1", Container(id="c1", name="web", body="{}")),
        put("names/web", Name(id="c1")),
        put("placements/c1", Placement(container="c1", host="h1", chosen="most room", reasons=reasons)),
    )
    shown = await drover("why", "web")
    assert "Chosen:    most room\n" in shown
    assert "  h2:      is draining\n" in shown
    assert json.loads(await drover("why", "web", "--json"))["host"] == "h1"


async def test_a_daemon_s_error_has_the_exit_code_of_its_kind(drover: Run) -> None:
    assert "cannot live" in await drover("token", "create", "--ttl", "90d", code=2)


def test_every_error_keeps_its_class_over_the_wire() -> None:
    from drover.api.answers import error_body, error_of

    for kind in DroverError.__subclasses__():
        own = kind.__module__ != DroverError.__module__  # another package's subclass crosses as its base class
        if own or kind.__name__ in ("EngineError", "NoPlacement"):
            continue
        sent = error_of(error_body(kind("why", hint="what to do")), kind.status)
        assert (type(sent), sent.message, sent.hint) == (kind, "why", "what to do")


NO_JSON = {
    "completion": "its output is a program for the shell",
    "daemon": "runs until it is stopped; its log is its output",
    "lab demo": "tells a story while it happens; its status says whether all promises held",
    "lab exec": "its output is that of the command it runs",
    "volume export": "its output is the archive",
}
"""Commands that cannot answer in JSON, and why."""


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    """Every command that does something, at any depth, with its full name."""
    if not isinstance(command, click.Group):
        return [(" ".join(path), command)]
    context = click.Context(command)
    subs = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [found for name, sub in subs if sub is not None for found in leaves(sub, (*path, name))]


def test_every_command_answers_in_json_or_says_why_not() -> None:
    without = {
        name for name, one in leaves(cli.main) if not any("--json" in parameter.opts for parameter in one.params)
    }
    assert without == set(NO_JSON)
    assert "events hook rm" in dict(leaves(cli.main)), "three words deep, too"
