"""Volume options and snapshot ids: what people write and what is made of it."""

from __future__ import annotations

import pytest

from drover.errors import Invalid
from drover.model import snapshots
from drover.model.volume_options import VolumeOptions, options_of, parse_options


def test_options_of_a_create_body() -> None:
    body = '{"Name": "data", "DriverOpts": {"driver": "btrfs", "replicas": "2", "interval": "1s"}}'
    assert options_of(body) == VolumeOptions("btrfs", 2, 1.0)
    assert options_of("") == options_of('{"DriverOpts": null}') == VolumeOptions()


def test_the_engines_own_options_are_left_to_it() -> None:
    assert parse_options({"type": "nfs", "device": ":/x"}).engines
    with pytest.raises(Invalid, match="do not mix"):
        parse_options({"type": "nfs", "replicas": "2"})


@pytest.mark.parametrize("text", ["0.1s", "never", "-1", "", "nan"])
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(Invalid, match="interval"):
        parse_options({"interval": text})


@pytest.mark.parametrize("text", ["-1", "17", "two", ""])
def test_replicas_that_are_none(text: str) -> None:
    with pytest.raises(Invalid, match="replicas"):
        parse_options({"replicas": text})


def test_a_change_keeps_the_rest() -> None:
    assert parse_options({"interval": "2m"}, VolumeOptions("btrfs", 3, 5.0)) == VolumeOptions("btrfs", 3, 120.0)


def test_ids_sort_by_epoch_and_time_and_never_repeat() -> None:
    first = snapshots.next_id([], 1, 50.0)
    again = snapshots.next_id([first], 1, 49.0)
    later = snapshots.next_id([first, again], 2, 10.0, "nightly")
    assert first < again < later
    assert (snapshots.epoch_of(later), snapshots.taken_at(later), snapshots.label_of(later)) == (2, 10.0, "nightly")
    assert snapshots.label_of(first) == ""


@pytest.mark.parametrize("text", ["", "nightly", "1-2", "0000000001-000000000000001-", "../etc"])
def test_what_is_no_id(text: str) -> None:
    assert not snapshots.is_id(text)
    with pytest.raises(Invalid):
        snapshots.epoch_of(text)


def test_a_name_must_fit_into_a_path() -> None:
    with pytest.raises(Invalid, match="snapshot's name"):
        snapshots.next_id([], 1, 1.0, "a/b")
