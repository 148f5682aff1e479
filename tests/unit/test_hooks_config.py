"""`adapters.yml`: what it may say, that order is kept, and that every refusal names its line."""

from __future__ import annotations

import pytest

from drover.errors import Invalid
from drover.gateway.hooks.config import Adapter, Endpoint, parse_config, warnings

POWERSTRIPS_OWN = """version: 1
endpoints:
  "POST /*/containers/create":
    pre: [label, quota]
    post: [audit]
  "POST /*/containers/*/start":
    post: [audit]
adapters:
  label: http://label/hook
  quota: http://quota/hook
  audit: http://audit/hook
"""


def refusal(text: str) -> str:
    with pytest.raises(Invalid) as caught:
        parse_config(text)
    return caught.value.message


def adapters(text: str) -> str:
    return f"endpoints: {{}}\nadapters:\n{text}"


def test_powerstrips_own_example():
    config = parse_config(POWERSTRIPS_OWN)
    assert config.endpoints == (
        Endpoint("POST /*/containers/create", ("label", "quota"), ("audit",)),
        Endpoint("POST /*/containers/*/start", (), ("audit",)),
    )
    assert config.adapters["quota"] == Adapter(name="quota", url="http://quota/hook")


def test_expressions_keep_the_files_order_not_the_alphabets():
    text = 'endpoints:\n  "Z /z": {pre: [b]}\n  "A /a": {pre: [a]}\nadapters: {b: "http://b", a: "http://a"}'
    assert [one.expression for one in parse_config(text).endpoints] == ["Z /z", "A /a"]


def test_version_may_be_left_out_and_both_mappings_may_be_empty():
    assert parse_config("endpoints: {}\nadapters: {}").endpoints == ()


def test_the_same_adapter_may_come_twice_and_one_url_under_two_names():
    config = parse_config('endpoints: {"* *": {pre: [a, a, b]}}\nadapters: {a: "http://x", b: "http://x"}')
    assert config.endpoints[0].pre == ("a", "a", "b")


def test_all_options_of_an_adapter():
    text = adapters(
        "  a:\n    url: https://a.example/hook\n    deadline_s: 2.5\n    on_error: skip\n    protocol: 2\n"
        "    unwind: true\n    limit_bytes: 2048\n    ca: /ca.pem\n    certificate: /c.pem\n    key: /k.pem\n"
        "  b: {url: unix:///run/b.sock, path: /hook}\n"
        "  c: {image: 'acme/c:1', port: 8080, env: {LEVEL: debug}}\n"
    )
    config = parse_config(text)
    assert config.adapters["a"] == Adapter(
        name="a",
        url="https://a.example/hook",
        deadline_s=2.5,
        on_error="skip",
        protocol=2,
        unwind=True,
        limit_bytes=2048,
        ca="/ca.pem",
        certificate="/c.pem",
        key="/k.pem",
    )
    assert config.adapters["b"].path == "/hook"
    assert (config.adapters["c"].port, config.adapters["c"].env) == (8080, {"LEVEL": "debug"})


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("endpoints: {}\nadapters: {}\nversion: 2", 3, "`version` must be 1"),
        ("endpoints: {}\nadapters: {}\nextra: 1", 3, "unknown key 'extra'"),
        ("endpoints: []\nadapters: {}", 1, "must be a mapping"),
        ('adapters: {}\nendpoints:\n  "* *": {}', 3, "neither `pre` nor `post`"),
        ('adapters: {}\nendpoints:\n  "* *": {before: []}', 3, "unknown key 'before'"),
        ('adapters: {}\nendpoints:\n  "* *":\n    pre: [ghost]', 4, "names 'ghost', which is not under `adapters`"),
        ('adapters: {}\nendpoints:\n  "* *":\n    pre: ghost', 4, "must be a list"),
        ('adapters: {}\nendpoints:\n  "* *":\n    pre: [[a]]', 4, "what is no name"),
        ('adapters: {}\nendpoints:\n  "/containers/create": {pre: []}', 3, "not of the form METHOD /GLOB"),
        ('adapters: {}\nendpoints:\n  "POST create": {pre: []}', 3, "not of the form METHOD /GLOB"),
        ('adapters: {}\nendpoints:\n  "* *": {pre: []}\n  "* *": {post: []}', 4, "twice (first in line 3)"),
        (adapters("  a: http://a\n  a: http://b"), 4, "has the key 'a' twice"),
        (adapters("  a: ftp://a"), 3, "no URL an adapter can have"),
        (adapters("  a: 'http://'"), 3, "no URL an adapter can have"),
        (adapters("  a: 'http://h:99999999/'"), 3, "no URL an adapter can have"),
        (adapters("  a: unix://relative.sock"), 3, "no URL an adapter can have"),
        (adapters("  'a b': http://a"), 3, "is no name"),
        (adapters("  a: {}"), 3, "either a `url` or an `image`"),
        (adapters("  a:\n    url: http://a\n    image: b"), 4, "either a `url` or an `image`"),
        (adapters("  a:\n    url: http://a\n    on_error: ignore"), 5, "Invalid enum value 'ignore'"),
        (adapters("  a:\n    url: http://a\n    protocol: 3"), 5, "Invalid enum value 3"),
        (adapters("  a:\n    url: http://a\n    deadline_s: soon"), 5, "Expected `float`"),
        (adapters("  a:\n    url: http://a\n    deadline_s: 0"), 5, "0 to 600 s"),
        (adapters("  a:\n    url: http://a\n    limit_bytes: 1"), 5, "at least 1024"),
        (adapters("  a:\n    url: http://a\n    timeout: 3"), 5, "unknown key 'timeout'"),
        (adapters("  a:\n    url: http://a\n    ca: /x"), 5, "go with an `https://` URL"),
        (adapters("  a:\n    url: https://a\n    certificate: /x"), 5, "go together"),
        (adapters("  a:\n    url: http://a\n    port: 80"), 5, "go with `image`"),
        (adapters("  a:\n    image: a\n    port: 0"), 5, "port 0 does not exist"),
        (adapters("  a:\n    url: http://a\n    path: /x"), 5, "goes with a `unix://` URL"),
        (adapters("  a: [1]"), 3, "must be a mapping"),
    ],
)
def test_every_refusal_names_its_line(text: str, line: int, says: str):
    message = refusal(text)
    assert message.startswith(f"line {line} of the adapters file: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("adapters: {}", "has no `endpoints:`"),
        ("endpoints: {}", "has no `adapters:`"),
        ("a: [", "is not YAML"),
        ("a: {\n  b: c\n", "line 3"),
        ("#" * 2_000_000, "is larger than"),
    ],
)
def test_what_is_no_such_file(text: str, says: str):
    assert says in refusal(text)


def test_tags_are_not_obeyed():
    assert "unknown key" in refusal("!!python/name:os.system x: 1\nendpoints: {}\nadapters: {}")
    assert "constructor" in refusal(adapters("  a:\n    url: !!python/object/apply:os.system ['true']"))


def test_warnings_of_what_is_probably_not_meant():
    config = parse_config(
        'endpoints:\n  "POST /containers/create": {pre: [a]}\n  "GET /_ping": {pre: [a]}\n  "* /*": {pre: [a]}\n'
        'adapters: {a: "http://a", b: "http://b"}'
    )
    assert warnings(config) == [
        "adapter b is used by no endpoint",
        "'POST /containers/create' names no version: it does not match calls with one, as most clients send them "
        "(write 'POST /*/containers/create')",
    ]
