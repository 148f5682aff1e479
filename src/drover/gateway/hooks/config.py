"""The hooks' configuration: from the text of `adapters.yml` to one checked, frozen value.

Theory of operation. The file is Powerstrip's. It is read as a tree that knows its lines, so that every refusal says
where; nothing is ignored in silence. Order is the file's: of expressions, and of names in a list.

| key | what |
|---|---|
| `version` | 1; may be left out, as in many old files |
| `endpoints` | expression (`METHOD /glob`) to `{pre: [names], post: [names]}`, at least one of the two; may be `{}` |
| `adapters` | name to a URL, or to the options below; may be `{}` |

| option of an adapter | what | default |
|---|---|---|
| `url` | `http://…`, `https://…`, `unix:///path/of.sock` | this or `image` is needed |
| `path` | with `unix://`: the path asked for | `/` |
| `image`, `port`, `env` | a container that the cluster runs for it | port 80 |
| `deadline_s` | how long one answer may take, in seconds | 10 |
| `on_error` | `fail` the call, or `skip` the adapter, when it fails (a refusal always refuses) | `fail` |
| `protocol` | 1 or 2 | 1 |
| `unwind` | whether it wants `unwind-hook` messages | false |
| `limit_bytes` | the largest answer it may give | 8 MiB |
| `ca`, `certificate`, `key` | with `https://`: files on every host | the system's CAs, no certificate |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import yaml

from drover.errors import Invalid

TEXT_LIMIT_BYTES = 1024 * 1024
DEADLINE_LIMIT_S = 600.0
REPLY_LIMIT_BYTES = 8 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_EXPRESSION = re.compile(r"\S+ [/*?\[]\S*")


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter. Either `url` or `image` is set."""

    name: str
    url: str = ""
    path: str = "/"
    image: str = ""
    port: int = 80
    env: dict[str, str] = {}
    deadline_s: float = 10.0
    on_error: Literal["fail", "skip"] = "fail"
    protocol: Literal[1, 2] = 1
    unwind: bool = False
    limit_bytes: int = REPLY_LIMIT_BYTES
    ca: str = ""
    certificate: str = ""
    key: str = ""


class Endpoint(msgspec.Struct, frozen=True):
    """The hooks of the calls that an expression matches, as names of adapters in the order they run."""

    expression: str
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()


class HooksConfig(msgspec.Struct, frozen=True):
    """Endpoints in file order, adapters by name."""

    endpoints: tuple[Endpoint, ...] = ()
    adapters: Mapping[str, Adapter] = {}


class _Item(msgspec.Struct, frozen=True):
    """A key of a mapping: its line (from 1) and its value."""

    line: int
    node: yaml.Node


def parse_config(text: str) -> HooksConfig:
    """The checked configuration. Raises `Invalid` that names the line and the key."""
    top = _mapping(_document(text), "the file")
    _only(top, ("version", "endpoints", "adapters"), "the file")
    _check_version(top.get("version"))
    for name in ("endpoints", "adapters"):
        if name not in top:
            raise Invalid(f"the adapters file has no `{name}:`", hint=f"write `{name}: {{}}` if there are none")
    adapters = {name: _adapter(name, item) for name, item in _mapping(top["adapters"].node, "`adapters`").items()}
    endpoints = tuple(
        _endpoint(expression, item, adapters)
        for expression, item in _mapping(top["endpoints"].node, "`endpoints`").items()
    )
    return HooksConfig(endpoints, adapters)


def warnings(config: HooksConfig) -> list[str]:
    """What is allowed and probably not meant, as sentences."""
    used = {name for endpoint in config.endpoints for name in (*endpoint.pre, *endpoint.post)}
    found = [f"adapter {name} is used by no endpoint" for name in config.adapters if name not in used]
    return found + [
        f"{endpoint.expression!r} names no version: it does not match calls with one, as most clients send them "
        f"(write {_with_version(endpoint.expression)!r})"
        for endpoint in config.endpoints
        if _lacks_version(endpoint.expression)
    ]


_UNVERSIONED = re.compile(r"(\S+ )(/[A-Za-z_][^/]*(?:/.*)?)")


def _lacks_version(expression: str) -> bool:
    found = _UNVERSIONED.fullmatch(expression)
    return found is not None and re.match(r"/v[0-9*?\[]", found[2]) is None and found[2] != "/_ping"


def _with_version(expression: str) -> str:
    method, path = expression.split(" ", 1)
    return f"{method} /*{path}"


def _document(text: str) -> yaml.Node:
    if len(text.encode()) > TEXT_LIMIT_BYTES:
        raise Invalid(f"the adapters file is larger than {TEXT_LIMIT_BYTES} bytes")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise Invalid(f"the adapters file is not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise Invalid("the adapters file is empty", hint="it needs `endpoints:` and `adapters:`")
    return node


def _wrong(line: int, what: str, hint: str = "") -> Invalid:
    return Invalid(f"line {line} of the adapters file: {what}", hint=hint)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mapping(node: yaml.Node, where: str) -> dict[str, _Item]:
    """The keys of a mapping in file order; refuses a key that occurs twice, of which YAML would drop one."""
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(_line(node), f"{where} must be a mapping")
    found: dict[str, _Item] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(_line(key), f"a key in {where} is not a plain text")
        if key.value in found:
            raise _wrong(_line(key), f"{where} has the key {key.value!r} twice (first in line {found[key.value].line})")
        found[key.value] = _Item(_line(key), value)
    return found


def _only(items: Mapping[str, _Item], allowed: tuple[str, ...], where: str) -> None:
    for name, item in items.items():
        if name not in allowed:
            raise _wrong(item.line, f"{where} has the unknown key {name!r}", f"allowed are {', '.join(allowed)}")


def _check_version(item: _Item | None) -> None:
    if item is not None and _plain(item.node) != 1:
        raise _wrong(item.line, "`version` must be 1", "it is the file's version; `protocol: 2` is set per adapter")


def _plain(node: yaml.Node) -> Any:
    """A node as Python's value, as YAML's safe loader makes it."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise _wrong(_line(node), " ".join(str(error).split())) from error
    finally:
        loader.dispose()


def _endpoint(expression: str, item: _Item, adapters: Mapping[str, Adapter]) -> Endpoint:
    where = f"endpoint {expression!r}"
    if not _EXPRESSION.fullmatch(expression):
        raise _wrong(item.line, f"{where} is not of the form METHOD /GLOB", 'for instance "POST /*/containers/create"')
    lists = _mapping(item.node, where)
    _only(lists, ("pre", "post"), where)
    if not lists:
        raise _wrong(item.line, f"{where} has neither `pre` nor `post`")
    named = {kind: _names(each, f"`{kind}` of {where}", adapters) for kind, each in lists.items()}
    return Endpoint(expression, named.get("pre", ()), named.get("post", ()))


def _names(item: _Item, where: str, adapters: Mapping[str, Adapter]) -> tuple[str, ...]:
    if not isinstance(item.node, yaml.SequenceNode):
        raise _wrong(item.line, f"{where} must be a list of adapters' names", "for instance [audit]")
    names = []
    for node in item.node.value:
        if not isinstance(node, yaml.ScalarNode) or node.value not in adapters:
            shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "what is no name"
            known = ", ".join(adapters) or "none"
            raise _wrong(_line(node), f"{where} names {shown}, which is not under `adapters`", f"there are: {known}")
        names.append(node.value)
    return tuple(names)


def _adapter(name: str, item: _Item) -> Adapter:
    where = f"adapter {name!r}"
    if not _NAME.fullmatch(name):
        raise _wrong(item.line, f"{where} is no name", "use letters, digits, `_`, `.` and `-`")
    if isinstance(item.node, yaml.ScalarNode):
        options: dict[str, Any] = {"url": item.node.value}
        lines = {"url": item.line}
    else:
        found = _mapping(item.node, where)
        _only(found, tuple(name for name in Adapter.__struct_fields__ if name != "name"), where)
        options = {key: _plain(each.node) for key, each in found.items()}
        lines = {key: each.line for key, each in found.items()}
    try:
        adapter = msgspec.convert({**options, "name": name}, Adapter)
    except msgspec.ValidationError as error:
        raise _wrong(_line_of(str(error), lines, item.line), f"{where}: {error}") from error
    for complaint, key in _complaints(adapter, options):
        raise _wrong(lines.get(key, item.line), f"{where}: {complaint}")
    return adapter


def _line_of(message: str, lines: Mapping[str, int], otherwise: int) -> int:
    """The line of the option that a validation message is about (it ends in "at `$.option`")."""
    found = re.search(r"\$\.([a-z_]+)", message)
    return lines.get(found[1], otherwise) if found else otherwise


def _complaints(adapter: Adapter, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with an adapter's options: (sentence, option)."""
    checks: list[tuple[bool, str, str]] = [
        (bool(adapter.url) == bool(adapter.image), "needs either a `url` or an `image`", "url"),
        (bool(adapter.url) and not _is_url(adapter.url), f"{adapter.url!r} is no URL an adapter can have", "url"),
        (bool(adapter.url) and ("port" in options or "env" in options), "`port` and `env` go with `image`", "port"),
        ("path" in options and not adapter.url.startswith("unix:"), "`path` goes with a `unix://` URL", "path"),
        (not adapter.path.startswith("/"), "`path` must begin with a slash", "path"),
        (not 1 <= adapter.port <= 65535, f"port {adapter.port} does not exist", "port"),
        (not 0 < adapter.deadline_s <= DEADLINE_LIMIT_S, f"0 to {DEADLINE_LIMIT_S:g} s are possible", "deadline_s"),
        (adapter.limit_bytes < 1024, "`limit_bytes` must be at least 1024", "limit_bytes"),
        (bool(adapter.certificate) != bool(adapter.key), "`certificate` and `key` go together", "certificate"),
        (
            bool(adapter.ca or adapter.key) and not adapter.url.startswith("https:"),
            "`ca`, `certificate` and `key` go with an `https://` URL",
            "ca" if adapter.ca else "certificate",
        ),
    ]
    return [(sentence, key) for wrong, sentence, key in checks if wrong]


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    shapes: dict[str, Callable[[], bool]] = {
        "http": lambda: bool(parts.hostname),
        "https": lambda: bool(parts.hostname),
        "unix": lambda: not parts.netloc and len(parts.path) > 1,
    }
    return valid_port and url.isprintable() and " " not in url and shapes.get(parts.scheme, lambda: False)()
