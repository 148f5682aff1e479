"""An answer is made once, and anew when anything it depends on has changed."""

from __future__ import annotations

from drover.gateway.repeats import LIMIT, Repeats


class Making:
    """Counts what it makes."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, body: bytes) -> bytes:
        self.made += 1
        return b"%d:%s" % (self.made, body)


def test_the_same_again_is_not_made_again():
    repeats, make, picture = Repeats(), Making(), object()
    assert [repeats.show("c", (picture,), b"x", make) for _ in range(3)] == [b"1:x"] * 3


def test_another_body_picture_or_subject_is_made_anew():
    repeats, make, picture = Repeats(), Making(), [1]
    shown = [
        repeats.show("c", (picture,), b"x", make),
        repeats.show("c", (picture,), b"y", make),
        repeats.show("c", ([1],), b"y", make),
        repeats.show("d", (picture,), b"y", make),
    ]
    assert shown == [b"1:x", b"2:y", b"3:y", b"4:y"]


def test_only_the_last_few_are_kept():
    repeats, make, picture = Repeats(), Making(), object()
    for number in range(LIMIT + 1):
        repeats.show(str(number), (picture,), b"", make)
    repeats.show(str(LIMIT), (picture,), b"", make)
    assert make.made == LIMIT + 1
    repeats.show("0", (picture,), b"", make)
    assert make.made == LIMIT + 2
