"""What is in a directory tree, file by file, and which files of another one need not be sent again.

Theory of operation. `scan` walks a tree. A regular file of the receiver is *kept* when the sender's file of the same
path has the same `Stamp`; all else travels. A stamp is everything but the content, so two contents must never have one
stamp:

    case                                            why it is safe
    written again within the clock's granularity    a time not `RACY_S` older than the base's scan counts as changed
    written through a memory map                    the scan is preceded by a sync, after which the first store to a
                                                    page changes the time again
    owner, mode or extended attributes changed      they are in the stamp
    names that share an inode (hard links)          the stamp names the first of them; they are kept or sent together
    a program sets an old time on new content       not seen, as by rsync: the one case left

A path is its bytes read as Latin-1 (`on_disk` turns it back): names need not be UTF-8, and JSON must be.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from drover.errors import Invalid
from drover.wire.nesting import MALFORMED

LARGE_BYTES = 1024 * 1024
"""Smaller files travel whole, in an archive."""
MAX_BYTES = 1024 * 1024 * 1024
"""A manifest's text: some million files."""
RACY_S = 2.0
HOST_BOUND = ("trusted.overlay.origin",)
"""Extended attributes that mean nothing on another host: overlayfs keeps a handle of the file below in it."""
Stamp = tuple[int, int, int, int, int, int, str]
"""Size, modification time in ns, mode, user, group, checksum of the extended attributes, first name of the inode."""


class Manifest(msgspec.Struct, frozen=True):
    """A tree: its regular files by path, all other paths (directories before what is in them), and the checksums of
    its large files' blocks (`delta`)."""

    snapshot: str = ""
    files: Mapping[str, Stamp] = {}
    others: tuple[str, ...] = ()
    sums: Mapping[str, str] = {}

    def packed(self) -> bytes:
        return zlib.compress(msgspec.json.encode(self), 1)


def unpacked(data: bytes) -> Manifest:
    """What `packed` made; an empty one of nothing. Raises `Invalid` for anything else."""
    if not data:
        return Manifest()
    try:
        unzipping = zlib.decompressobj()
        text = unzipping.decompress(data, MAX_BYTES)
        if unzipping.unconsumed_tail or not unzipping.eof:
            raise Invalid("the list of what a host has of a volume is cut off or too long")
        return msgspec.json.decode(text, type=Manifest)
    except (zlib.error, *MALFORMED) as error:
        raise Invalid(f"the list of what a host has of a volume is damaged: {error}") from error


def scan(root: Path, snapshot: str) -> Manifest:
    """The tree below `root`. What vanishes during the walk is left out."""
    files: dict[str, Stamp] = {}
    others: list[str] = []
    first_names: dict[tuple[int, int], str] = {}
    top = os.fsencode(root)
    for path, found in _walk(top):
        if not stat.S_ISREG(found.st_mode):
            others.append(path)
            continue
        first = first_names.setdefault((found.st_dev, found.st_ino), path)
        files[path] = _stamp(os.path.join(top, on_disk(path)), found, "" if first == path else first)
    return Manifest(snapshot=snapshot, files=files, others=tuple(others))


def kept(ours: Manifest, theirs: Manifest, base_taken_at: float) -> frozenset[str]:
    """Paths whose content the other side has under the same path, `theirs` having been sent at `base_taken_at`."""
    racy_ns = int((base_taken_at - RACY_S) * 1e9)
    same = {path for path, mark in ours.files.items() if theirs.files.get(path) == mark and mark[1] < racy_ns}
    for group in _groups(ours):
        if not group <= same:
            same -= group
    return frozenset(same)


def large(manifest: Manifest) -> list[str]:
    """The files that travel by blocks: large ones with one name."""
    linked = {path for group in _groups(manifest) for path in group}
    return [path for path, mark in manifest.files.items() if mark[0] >= LARGE_BYTES and path not in linked]


def _groups(manifest: Manifest) -> list[set[str]]:
    """The sets of paths that share an inode."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for path, mark in manifest.files.items():
        if mark[6]:
            groups[mark[6]] |= {path, mark[6]}
    return list(groups.values())


def on_disk(path: str) -> bytes:
    """The path as the filesystem has it."""
    return path.encode("latin-1")


def _walk(root: bytes) -> Iterator[tuple[str, os.stat_result]]:
    """Relative paths (`.` first) with what lstat says, directories before their content."""
    yield ".", os.lstat(root)
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        try:
            names = sorted(os.listdir(os.path.join(root, directory)))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                found = os.lstat(os.path.join(root, path))
            except FileNotFoundError:
                continue
            if not stat.S_ISSOCK(found.st_mode):  # a socket means nothing without the process that listens on it
                yield path.decode("latin-1"), found
            if stat.S_ISDIR(found.st_mode):
                waiting.append(path)


def _stamp(path: bytes, found: os.stat_result, first: str) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid, found.st_gid, _attributes(path), first


def _attributes(path: bytes) -> int:
    """A checksum of the extended attributes; 0 if there are none."""
    try:
        names = sorted(set(os.listxattr(path, follow_symlinks=False)) - set(HOST_BOUND))
        pairs = [name.encode() + b"=" + os.getxattr(path, name, follow_symlinks=False) for name in names]
    except OSError:
        return 0
    return zlib.crc32(b"\0".join(pairs)) if pairs else 0
