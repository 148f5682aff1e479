"""Bodies and paths as a Docker engine understands them, which is more lenient than JSON is.

| the engine (Go's decoder) | so here |
|---|---|
| takes `hostconfig` for `HostConfig` | keys are folded; values are found under any spelling |
| takes both of two keys that differ only in spelling, and merges them | two such keys are refused |
| takes `"Privileged": null` as not said | null is as good as absent |
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote

from drover.adapters.serve import Message, Refuse

_VERSION = re.compile(r"^/v[0-9.]+(?=/)")


class Fields:
    """A JSON object whose keys are found in any spelling."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self._values: dict[str, Any] = {}
        self.spelled: dict[str, Any] = dict(pairs)
        for name, value in pairs:
            if name.casefold() in self._values:
                raise Refuse(f"the request's body has the key {name!r} twice", 400)
            self._values[name.casefold()] = value

    def get(self, name: str) -> Any:
        return self._values.get(name.casefold())

    def fields(self, name: str) -> Fields:
        """The object under a key; an empty one if there is none."""
        value = self.get(name)
        if value is not None and not isinstance(value, Fields):
            raise Refuse(f"{name} in the request's body is no object", 400)
        return value or Fields([])

    def items(self, name: str) -> list[Any]:
        """The list under a key; an empty one if there is none."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise Refuse(f"{name} in the request's body is no list", 400)
        return value or []

    def spelling(self, name: str) -> str:
        """The key as the body spells it; as Docker does if it has none."""
        return next((key for key in self.spelled if key.casefold() == name.casefold()), name)


def body_of(message: Message) -> Fields:
    """The request's JSON object. Raises `Refuse` where there is none: what cannot be read cannot be allowed."""
    text = message["ClientRequest"]["Body"]
    if not text:
        raise Refuse("this call needs a JSON body", 400)
    try:
        found = json.loads(text, object_pairs_hook=Fields)
    except (ValueError, RecursionError) as error:
        raise Refuse(f"the request's body is not JSON: {error}", 400) from error
    if not isinstance(found, Fields):
        raise Refuse("the request's body is no JSON object", 400)
    return found


def plain(value: Any) -> Any:
    """`Fields` back as dictionaries, as spelled."""
    if isinstance(value, Fields):
        return {name: plain(each) for name, each in value.spelled.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def endpoint_of(message: Message) -> tuple[str, str]:
    """Method and path without version and query, decoded: `("POST", "/containers/create")`."""
    request = message["ClientRequest"]
    path = unquote(request["Request"].partition("?")[0])
    return request["Method"], _VERSION.sub("", path)


def query_of(message: Message) -> dict[str, list[str]]:
    """The values of each query parameter. Raises `Refuse` for a `;`, which engines read in two ways."""
    query = message["ClientRequest"]["Request"].partition("?")[2]
    if ";" in query:
        raise Refuse("the query has a semicolon", 400)
    return parse_qs(query, keep_blank_values=True)


def is_create(message: Message) -> bool:
    return message["Type"] == "pre-hook" and endpoint_of(message) == ("POST", "/containers/create")
