"""What must be true after each round, as pure checks on what was collected; each answers with sentences, if any.

check        of                                                       promise
lost         numbers acknowledged to a client and not stored          P3: nothing, or within the displayed lag
balance      the bank's accounts and its history                      the database is consistent
stamps       the lines that the raw writer left on its volume         P1: one writer, one host per epoch
holders      who has each address, before and after                   the address moves with the container
engines      on which engines each container runs                     P1: on one
kept         what a database had before and has after                 its history is only appended to
agreement    store, engines and disks about each container            they say the same
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

LOOK_S = 0.5
"""What was displayed is at most this old when a fault comes."""


class Ack(msgspec.Struct, frozen=True):
    """A write that a client was told of as done; `at`: seconds since the Unix epoch."""

    number: int
    at: float


class Stamp(msgspec.Struct, frozen=True):
    """One line of the raw writer: its number, where it was written, and the uptime then, which all hosts share."""

    number: int
    host: str
    epoch: int
    uptime_s: float


def acks(lines: Iterable[str]) -> list[Ack]:
    """The acknowledgements in a client's book: `NUMBER SECONDS` per line; a last line cut short is left out."""
    parts = (line.split() for line in lines)
    return [Ack(int(found[0]), float(found[1])) for found in parts if len(found) == 2]


def stamps(lines: Iterable[str]) -> list[Stamp]:
    """The raw writer's lines: `NUMBER HOST EPOCH UPTIME`; one that the power cut short is left out."""
    parts = (line.split() for line in lines)
    whole = (found for found in parts if len(found) == 4 and found[3].count(".") == 1)
    return [Stamp(int(found[0]), found[1], int(found[2]), float(found[3])) for found in whole]


def lost(acknowledged: Sequence[Ack], stored: frozenset[int], known: frozenset[int]) -> list[Ack]:
    """Acknowledged and not stored, except what is known to be lost since an earlier round."""
    return [ack for ack in acknowledged if ack.number not in stored and ack.number not in known]


def beyond_the_lag(name: str, missing: Sequence[Ack], fault_at: float, lag_s: float | None) -> list[str]:
    """Lost writes that the display did not allow. `lag_s`: how old the newest copy was shown to be when the fault came;
    None: nothing may be lost."""
    if lag_s is None:
        return [f"P3: {name} lost {len(missing)} acknowledged writes without a host's loss"] if missing else []
    oldest = fault_at - lag_s - LOOK_S
    early = [ack for ack in missing if ack.at < oldest]
    return [
        f"P3: {name} lost write {ack.number}, {fault_at - ack.at:.1f} s old at a lag of {lag_s:.1f} s" for ack in early
    ]


def balance(total: int, wanted: int, history: Sequence[int]) -> list[str]:
    """The accounts add up, and no transfer is there twice."""
    said = [] if total == wanted else [f"the bank has {total} instead of {wanted}"]
    return said + ([] if len(set(history)) == len(history) else ["a transfer is in the history twice"])


def writers(lines: Sequence[Stamp]) -> list[str]:
    """One host per epoch, epochs that only grow, time that only goes on."""
    said = []
    for early, late in pairwise(lines):
        if late.uptime_s < early.uptime_s:
            said.append(f"P1: stamp {late.number} is older than the one before it")
        if late.epoch < early.epoch or (late.epoch == early.epoch and late.host != early.host):
            said.append(
                f"P1: stamp {late.number} of {late.host} at epoch {late.epoch} follows {early.host} at {early.epoch}"
            )
    return said


def holders(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Every container has the address and MAC it had."""
    return [
        f"P2: {name} had {before[name]} and has {after.get(name)}" for name in before if after.get(name) != before[name]
    ]


def engines(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Every container runs on exactly one engine."""
    return [f"P1: {name} runs on {list(hosts) or 'no host'}" for name, hosts in found.items() if len(hosts) != 1]


def kept(before: frozenset[int], after: frozenset[int], known: frozenset[int]) -> list[str]:
    """A history is only appended to: what was stored before the round is stored after it, also what nobody was told.
    `known`: what the round may have lost."""
    gone = sorted(before - after - known)
    return [f"P3: {len(gone)} entries of the history are gone, {gone[0]} the first"] if gone else []


def agreement(
    store: Mapping[str, tuple[str, int]],
    found: Mapping[str, Sequence[str]],
    disks: Mapping[str, Sequence[tuple[str, int]]],
) -> list[str]:
    """For each server what the store says (host, epoch of its volume), the engines that run it, and the hosts and
    epochs of the live sets that disks have of its volume: one of each, and the same."""
    said = []
    for name, (host, epoch) in store.items():
        if list(found.get(name, ())) != [host]:
            said.append(f"the store has {name} on {host}, and it runs on {list(found.get(name, ())) or 'no host'}")
        if list(disks.get(name, ())) != [(host, epoch)]:
            said.append(
                f"the store has {name}'s volume on {host} at epoch {epoch}, and disks have {disks.get(name, ())}"
            )
    return said


def local_addresses(fib_trie: str) -> frozenset[str]:
    """The addresses that a network namespace itself answers for, from its `/proc/PID/net/fib_trie`, but for its own
    loopback's."""
    found, last = set(), ""
    for line in fib_trie.splitlines():
        text = line.strip()
        if text.startswith("|-- "):
            last = text.removeprefix("|-- ")
        elif text == "/32 host LOCAL" and not last.startswith("127."):
            found.add(last)
    return frozenset(found)
