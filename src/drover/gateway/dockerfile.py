"""`base_images`: the images that a Dockerfile builds upon, before any of its lines is carried out.

instruction              counts                                         does not count
FROM IMAGE [AS STAGE]    IMAGE, with what ARG lines before it say       `scratch`, an earlier stage
COPY --from=IMAGE …      IMAGE                                          an earlier stage, by name or number

The lines are read by `dockerfile-parse`; variables are those that Docker knows in a FROM: `$V`, `${V}`, `${V:-word}`
and `${V:+word}`. https://docs.docker.com/reference/dockerfile/#understand-how-arg-and-from-interact
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, cast

_VARIABLE = re.compile(r"\$(?:(?P<bare>\w+)|\{(?P<name>\w+)(?::(?P<how>[-+])(?P<word>[^}]*))?\})")
_FROM = re.compile(r"(?:--\S+\s+)*(?P<image>\S+)(?:\s+AS\s+(?P<stage>\S+))?", re.IGNORECASE)
_COPY_FROM = re.compile(r"(?:--\S+\s+)*?--from=(?P<image>\S+)")
_ARG = re.compile(r"(?P<name>\w+)(?:=(?P<value>\S*))?")


def base_images(dockerfile: bytes, build_args: Mapping[str, str]) -> list[str]:
    """Image references in order, each once. What cannot be understood is left out: the engine will say so."""
    known: dict[str, str] = {}
    stages: list[str] = []
    found: dict[str, None] = {}
    for instruction, value in _instructions(dockerfile):
        if instruction == "ARG" and not stages:
            known |= _declared(value, known, build_args)
        elif instruction == "FROM" and (words := _FROM.match(value)):
            found |= _counted(_replaced(words["image"], known), stages)
            stages.append((words["stage"] or "").lower())
        elif instruction == "COPY" and (words := _COPY_FROM.match(value)):
            found |= _counted(words["image"], stages)
    return list(found)


def _instructions(dockerfile: bytes) -> Iterable[tuple[str, str]]:
    from dockerfile_parse import DockerfileParser  # here: most daemons never build

    file = cast(IO[str], io.BytesIO(dockerfile))  # it reads bytes, whatever its stubs say
    lines = DockerfileParser(fileobj=file).structure
    return [(line["instruction"].upper(), line["value"]) for line in lines]


def _declared(value: str, known: Mapping[str, str], build_args: Mapping[str, str]) -> dict[str, str]:
    """The variables of one ARG line before the first stage: the caller's values go before the defaults."""
    found = {words["name"]: words["value"] for words in map(_ARG.match, value.split()) if words}
    defaults = {name: _replaced(word.strip("\"'"), known) for name, word in found.items() if word is not None}
    return defaults | {name: build_args[name] for name in found if name in build_args}


def _replaced(text: str, known: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        text = known.get(match["bare"] or match["name"], "")
        if match["how"] == "+":
            return match["word"] if text else ""
        return text or match["word"] or ""

    return _VARIABLE.sub(value, text.strip("\"'"))


def _counted(image: str, stages: Sequence[str]) -> dict[str, None]:
    earlier = {"", "scratch", *stages, *map(str, range(len(stages)))}
    return {} if image.lower() in earlier else {image: None}
