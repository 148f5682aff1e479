"""May a store that lost its majority be founded anew from one member's data? Pure.

Theory of operation. The danger is a second store: members that this host cannot reach may have a majority among
themselves and go on. So what cannot be reached must be proven harmless, or a person answers for it:

    what is seen                                                    then
    a member that is reached knows a leader                         refused: the store works, this host is cut off
    this host runs no voting member                                 refused: it has no copy of the records
    another member that is reached has newer records                refused: it is the one to recover on
    unreachable members, not answered for, could be a majority      refused: names them
    otherwise                                                       may be done

Who is answered for (`--lost HOST`) is switched off, or will never come back as it was. What is reached without a leader
cannot renew its lease and has stopped what is exclusive; the same holds for fewer unreachable members than a majority,
and for hosts without a member. So no claim is used by anybody when the store is founded anew, and each is passed on
only when the lease that the records still have is over: epochs go on from what the records say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from drover.decide.quorum import majority


class Seen(msgspec.Struct, frozen=True):
    """What was heard of one member. `index` grows with the records; `leads`: it knows a leader."""

    host: str
    reached: bool
    index: int = 0
    leads: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """`refusal` is empty if it may be done; `hint` says what to do instead."""

    refusal: str = ""
    hint: str = ""


def verdict(here: str, voters: Sequence[str], seen: Mapping[str, Seen], lost: Collection[str]) -> Verdict:
    """By the module's table; `seen` has this host's own member too, as far as it could be asked."""
    if here not in voters:
        others = ", ".join(voters) or "none is known"
        return Verdict(f"host {here} has no voting member of the store", f"run it on one of: {others}")
    led = [one.host for one in seen.values() if one.leads]
    if led:
        return Verdict(
            f"the store works: the member on {led[0]} follows a leader",
            f"nothing is to be recovered; see why {here} does not reach it",
        )
    newest = max((one for one in seen.values() if one.reached), key=lambda one: one.index, default=None)
    own = seen.get(here)
    if newest is not None and own is not None and newest.index > own.index and newest.host not in lost:
        return Verdict(f"host {newest.host} has newer records than {here}", f"run it on {newest.host}")
    return _unknown(here, voters, seen, lost)


def _unknown(here: str, voters: Sequence[str], seen: Mapping[str, Seen], lost: Collection[str]) -> Verdict:
    unknown = [one for one in voters if one not in lost and one != here and not _reached(seen, one)]
    if len(unknown) < majority(len(voters)):
        return Verdict()
    names = " ".join(f"--lost {one}" for one in unknown)
    return Verdict(
        f"{', '.join(unknown)} cannot be reached, and may go on without {here}: "
        "two stores would pass on the same claims",
        f"make sure that they are switched off and stay off, then say so: drover cluster recover {names}",
    )


def _reached(seen: Mapping[str, Seen], host: str) -> bool:
    return host in seen and seen[host].reached
