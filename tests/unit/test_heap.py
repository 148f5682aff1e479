"""The daemon's settings of the C library."""

import ctypes

from drover.daemon import heap


def test_the_settings_are_taken_where_the_c_library_has_them() -> None:
    assert heap.keep_small() is hasattr(ctypes.CDLL(None), "mallopt")
