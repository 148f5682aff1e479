"""Which images a Dockerfile builds upon."""

from __future__ import annotations

import pytest

from drover.gateway.dockerfile import base_images


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("FROM busybox", ["busybox"]),
        ("# FROM no\nfrom Busybox:1 as x\nRUN echo FROM y", ["Busybox:1"]),
        ("FROM --platform=linux/amd64 \\\n  busybox:1 AS one\nFROM ONE\nFROM scratch", ["busybox:1"]),
        ("ARG V=1\nARG N=base-$V\nFROM ${N}:${V}", ["base-1:1"]),
        ("ARG V\nFROM a:${V:-latest}\nFROM b:${V:+no}x", ["a:latest", "b:x"]),
        ("ARG GIVEN=no\nFROM $GIVEN", ["yes"]),
        ("FROM a\nARG B=c\nFROM b$B", ["a", "b"]),
        ('ARG Q="quoted"\nFROM $Q', ["quoted"]),
        ("FROM a AS x\nCOPY --from=x / /\nCOPY --chown=1 --from=tools:2 /a /b\nCOPY --from=0 / /", ["a", "tools:2"]),
        ("FROM a\nFROM b AS c\nCOPY --from=1 / /\nFROM a", ["a", "b"]),
        ("FROM registry.example:5000/team/x@sha256:abc", ["registry.example:5000/team/x@sha256:abc"]),
        ("FROM $MISSING", []),
        ("", []),
        ("FROM", []),
        ("\x00\xff{{{", []),
    ],
)
def test_base_images(text: str, images: list[str]) -> None:
    assert base_images(text.encode("utf-8", "replace"), {"GIVEN": "yes"}) == images
