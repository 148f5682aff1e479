"""One answer out of many: sums, unions, and lists in which the same thing is named once. Pure.

list      the same thing has     what is merged
images    the same Id            RepoTags, RepoDigests (both sorted out of `<none>`), Containers
others    the same identity key  nothing: the first host's stands
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NOTHING = "<none>"


def total(items: Iterable[dict[str, Any]], name: str) -> int:
    """The sum of a number over all items; what is missing or null counts nothing."""
    return sum(item.get(name) or 0 for item in items)


def once_each(items: Iterable[dict[str, Any]], identity: str) -> list[dict[str, Any]]:
    """The first item of each identity, in order."""
    found: dict[Any, dict[str, Any]] = {}
    for item in items:
        found.setdefault(item.get(identity), item)
    return list(found.values())


def merge_images(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each image once, newest first, with all names it has anywhere."""
    found: dict[str, dict[str, Any]] = {}
    for image in images:
        known = found.get(image["Id"])
        found[image["Id"]] = image if known is None else _merged_image(known, image)
    return sorted(found.values(), key=lambda image: image.get("Created") or 0, reverse=True)


def _merged_image(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = {**one}
    for name in ("RepoTags", "RepoDigests"):
        merged[name] = _names(one.get(name), other.get(name))
    if one.get("Containers", -1) >= 0:
        merged["Containers"] = total((one, other), "Containers")
    return merged


def _names(one: list[str] | None, other: list[str] | None) -> list[str] | None:
    """The union in order. A name like `<none>:<none>` stands only where there is no other."""
    if one is None and other is None:
        return None
    union = list(dict.fromkeys([*(one or []), *(other or [])]))
    real = [name for name in union if NOTHING not in name]
    return real or union


def merged_lists(lists: Iterable[list[Any] | None]) -> list[Any] | None:
    """One list after the other; None if all are null, as Go writes an empty list that was never made."""
    given = [items for items in lists if items is not None]
    return [item for items in given for item in items] if given else None
