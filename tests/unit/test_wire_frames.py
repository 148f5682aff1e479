"""Frames: any bytes, cut anywhere, come out in order; ends and nonsense are recognised."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.wire.frames import END, FRAME_LIMIT_BYTES, FrameDecoder, frame
from drover.wire.heads import BadMessage


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 9))
def test_bytes_come_out_in_order_however_the_frames_are_cut(pieces, step):
    raw = b"".join(map(frame, pieces)) + END
    decoder = FrameDecoder()
    out = b"".join(b"".join(decoder.feed(raw[at : at + step])) for at in range(0, len(raw), step))
    assert out == b"".join(pieces)
    assert decoder.ended


def test_part_of_a_frame_is_passed_on_at_once():
    decoder = FrameDecoder()
    assert decoder.feed(frame(b"hello")[:6]) == [b"he"]
    assert not decoder.ended


def test_nothing_may_follow_the_end():
    decoder = FrameDecoder()
    with pytest.raises(BadMessage):
        decoder.feed(END + b"x")


def test_an_oversized_frame_is_refused():
    with pytest.raises(BadMessage):
        FrameDecoder().feed(struct.pack(">I", FRAME_LIMIT_BYTES + 1))


@pytest.mark.parametrize("data", [b"", bytes(FRAME_LIMIT_BYTES + 1)])
def test_frames_that_would_mean_something_else_are_not_made(data):
    with pytest.raises(ValueError, match="a frame carries"):
        frame(data)
