"""Thin archives: what is left out, that the rest passes byte for byte, and that a fake engine loads them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.drivers.engine.fake_images import FakeImages, Layout, digest, make_image
from drover.drivers.engine.read import chain_ids
from drover.drivers.images.tarstream import members
from drover.drivers.images.thin import Tally, leading, spare, thin
from drover.errors import EngineError, Invalid, Unavailable

LAYOUTS: list[Layout] = ["docker", "oci"]
BASE, MIDDLE, TOP = b"base" * 500, b"middle" * 500, b"top" * 500


async def pieces(data: bytes, size_bytes: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]


async def thinned(
    archive: bytes, present: Sequence[bytes], tally: Tally | None = None, piece_bytes: int = 700
) -> bytes:
    skip = frozenset(digest(layer) for layer in present)
    return b"".join([piece async for piece in thin(pieces(archive, piece_bytes), skip, tally)])


def saved(layout: Layout, *layers: bytes) -> bytes:
    images = FakeImages()
    images.add(make_image(layers), "app:1")
    return images.archive(["app:1"], layout)


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


# -- which layers are spare --------------------------------------------------------------------------------------------


def test_layers_present_from_the_lowest_up_are_spare() -> None:
    assert spare(["a", "b", "c"], set(chain_ids(["a", "b"]))) == {"a", "b"}
    assert spare(["a", "b"], set(chain_ids(["a", "b"]))) == {"a", "b"}
    assert spare(["a", "b"], set()) == frozenset()


def test_a_layer_on_another_base_is_not_spare() -> None:
    assert spare(["a", "b"], set(chain_ids(["x", "b"]))) == frozenset()
    assert leading(["a", "b"], set(chain_ids(["a", "x", "b"]))) == 1


def test_a_layer_that_occurs_again_higher_up_is_not_spare() -> None:
    assert spare(["a", "b", "a"], set(chain_ids(["a", "b"]))) == {"b"}


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert chain_ids([]) == []
    assert chain_ids([first, second]) == [first, digest(f"{first} {second}".encode())]


# -- thin --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_without_spare_layers_the_archive_passes_untouched(layout: Layout) -> None:
    archive = saved(layout, BASE, TOP)
    assert await thinned(archive, []) == archive
    assert await thinned(archive, [b"something else"]) == archive


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_spare_layers_are_left_out_and_counted(layout: Layout) -> None:
    archive, tally = saved(layout, BASE, MIDDLE, TOP), Tally()
    result = await thinned(archive, [BASE, MIDDLE], tally)
    assert len(names(result)) == len(names(archive)) - 2
    assert TOP in result
    assert BASE not in result
    assert MIDDLE not in result
    assert (tally.skipped_layers, tally.skipped_bytes) == (2, len(BASE) + len(MIDDLE))
    assert tally.sent_bytes == len(result)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_thin_archive_loads_where_the_layers_are(layout: Layout) -> None:
    result = await thinned(saved(layout, BASE, TOP), [BASE])
    target = FakeImages()
    target.add(make_image([BASE]), "base:1")
    assert target.load(result) == "Loaded image: app:1\n"
    assert target.tags["app:1"] == make_image([BASE, TOP]).id
    with pytest.raises(EngineError, match="no such file"):
        FakeImages().load(result)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_repeated_layer(layout: Layout) -> None:
    """The older layout links the second occurrence to the first."""
    diff_ids = [digest(BASE), digest(TOP), digest(BASE)]
    target = FakeImages()
    target.add(make_image([BASE, TOP]), "base:1")
    present = spare(diff_ids, target.chains())
    result = b"".join([piece async for piece in thin(pieces(saved(layout, BASE, TOP, BASE)), present)])
    assert TOP not in result
    target.load(result)
    assert target.tags["app:1"] == make_image([BASE, TOP, BASE]).id


@given(
    layers=st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=4),
    have=st.integers(0, 4),
    piece_bytes=st.integers(1, 2000),
    layout=st.sampled_from(LAYOUTS),
)
async def test_any_image_arrives_whole(layers: list[bytes], have: int, piece_bytes: int, layout: Layout) -> None:
    target = FakeImages()
    if layers[:have]:
        target.add(make_image(layers[:have]), "base:1")
    present = spare([digest(layer) for layer in layers], target.chains())
    archive = saved(layout, *layers)
    target.load(b"".join([piece async for piece in thin(pieces(archive, piece_bytes), present)]))
    assert target.by_id[target.tags["app:1"]] == make_image(layers)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("present", [[], [BASE]])
async def test_a_cut_archive_is_noticed_wherever_it_is_cut(layout: Layout, present: list[bytes]) -> None:
    archive = saved(layout, BASE, TOP)
    end = archive.rindex(b"]") // 512 * 512 + 512
    for cut in range(0, end, 256):
        with pytest.raises(Unavailable, match="ended"):
            await thinned(archive[:cut], present)


async def test_what_is_no_archive_is_refused() -> None:
    with pytest.raises(Invalid, match="damaged"):
        await thinned(b"<html>" * 1000, [])


# -- the walk over members ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
async def test_members_with_long_names_and_all_kinds_of_types(form: int) -> None:
    target = io.BytesIO()
    long_name = "/".join(["directory"] * 12) + "/file" + ("ü" if form != tarfile.USTAR_FORMAT else "")
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for name, kind in ((long_name, tarfile.REGTYPE), ("dir", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello"))
    archive = target.getvalue()
    found = [getattr(member, "name", "end") async for member in members(pieces(archive))]
    assert found == [long_name, "dir", "link", "end"]
    assert await thinned(archive, [BASE]) == archive


async def test_an_endless_header_is_refused() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2 * 1024 * 1024
    with pytest.raises(Invalid, match="long header"):
        await thinned(info.tobuf(tarfile.USTAR_FORMAT) + bytes(4096), [])
