"""Which hooks a call gets: `METHOD /glob` against the decoded, normalised path.

Theory of operation. The text `METHOD PATH` without query is compared with each expression by shell globbing over the
whole text, as Powerstrip does: `*` any characters, slashes too, `?` one, `[seq]`, `[!seq]`; case counts. What is
compared is what the engine will be asked, not what the client wrote, so that no way of writing a path escapes a hook.

| the call | is compared as | with |
|---|---|---|
| `POST /v1.41/containers/create` | itself | each expression |
| `POST //v1.41/container%73/create` | `POST /v1.41/containers/create` | each expression |
| `POST /containers/create` (no version) | itself | each expression, and each without its version part |

A version part is a first segment that is `*` or begins with `v` and a digit or wildcard. All matching expressions
count: their `pre` lists are concatenated in file order, and their `post` lists.
"""

from __future__ import annotations

import fnmatch
import re

import msgspec

from drover.gateway.hooks.config import Adapter, HooksConfig

_VERSION_PART = re.compile(r"(\S+ )/(?:\*|v[0-9*?\[][^/]*)(/.*)")


class Hooks(msgspec.Struct, frozen=True):
    """The adapters of one call, in the order they run."""

    pre: tuple[Adapter, ...] = ()
    post: tuple[Adapter, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pre or self.post)


class _Compiled(msgspec.Struct, frozen=True):
    """One endpoint: what matches calls with a version, what matches those without, and its adapters."""

    versioned: re.Pattern[str]
    unversioned: re.Pattern[str]
    hooks: Hooks


class Matcher:
    """A configuration, ready to be asked for each call."""

    def __init__(self, config: HooksConfig) -> None:
        adapters = config.adapters
        self._endpoints = [
            _Compiled(
                _pattern(endpoint.expression),
                _pattern(endpoint.expression, *_without_version(endpoint.expression)),
                Hooks(tuple(adapters[n] for n in endpoint.pre), tuple(adapters[n] for n in endpoint.post)),
            )
            for endpoint in config.endpoints
        ]

    def __bool__(self) -> bool:
        return bool(self._endpoints)

    def find(self, method: str, path: str, version: str) -> Hooks:
        """The hooks of a call; `path` is decoded and normalised, without its version."""
        subject = f"{method} /v{version}{path}" if version else f"{method} {path}"
        matching = [
            one.hooks
            for one in self._endpoints
            if (one.versioned if version else one.unversioned).fullmatch(subject) is not None
        ]
        if not matching:
            return NONE
        return Hooks(
            tuple(adapter for hooks in matching for adapter in hooks.pre),
            tuple(adapter for hooks in matching for adapter in hooks.post),
        )


NONE = Hooks()


def _without_version(expression: str) -> list[str]:
    found = _VERSION_PART.fullmatch(expression)
    return [found[1] + found[2]] if found else []


def _pattern(*globs: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs)))
