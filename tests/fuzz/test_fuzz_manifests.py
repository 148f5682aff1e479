"""Manifests: whatever a file says, it is a record of an application, or a sentence says what is wrong with it."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.hostile import fuzzed, names, values, with_strange_fields

from drover.errors import Invalid
from drover.manifest.app import NAME, read_app
from drover.manifest.bare import as_compose, is_bare
from drover.manifest.keys import unhonoured
from drover.model.spec import parse_spec

CORPUS = Path(__file__).resolve().parents[1] / "corpus"


@cache
def canonical() -> list[dict[str, Any]]:
    """The corpus as Compose itself resolves it."""
    found = [json.loads(file.read_text()) for file in sorted(CORPUS.glob("*/canonical.json"))]
    assert found
    return found


manifests = st.deferred(lambda: st.sampled_from(canonical())).flatmap(with_strange_fields)


@fuzzed(6)
@given(manifests | values, names | st.just("shop"))
def test_a_manifest_becomes_a_record_or_a_sentence(manifest: Any, name: str) -> None:
    if not isinstance(manifest, dict):
        manifest = {"services": manifest}
    with contextlib.suppress(Invalid):
        read = read_app(manifest, name, {})
        assert NAME.fullmatch(read.app.name)
        for service in read.app.services.values():
            parse_spec(service.body)


@fuzzed(2)
@given(manifests)
def test_every_key_that_is_not_honoured_is_named(manifest: dict[str, Any]) -> None:
    named = unhonoured(manifest)
    assert all(one.strip() for one in named)
    assert unhonoured({**manifest, "x-mine": {"a": 1}}) == named
    assert len(unhonoured({**manifest, "nonsense": {"a": 1}})) == len(named) + ("nonsense" not in manifest)


bare = st.dictionaries(names, st.dictionaries(st.sampled_from(("image", "cmd", "ports", "x")), values), max_size=3)


@fuzzed(2)
@given(bare | values)
def test_the_bare_form_is_told_from_compose_and_read(document: Any) -> None:
    if is_bare(document):
        with contextlib.suppress(Invalid):
            made = as_compose(document)
            assert set(made["services"]) == {name for name in document if not name.startswith("x-")}
            yaml.safe_dump(made)
