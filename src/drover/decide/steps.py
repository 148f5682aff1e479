"""Steps: what one host should do next, as values. `agent.act` performs them in one `match`.

Each step has an `object` (what it is about): the agent runs at most one step per object at a time, then looks again.

    step             object             done when
    EnsureVolume     volume/NAME        the engine shows the volume
    EnsureNetwork    network/ID         the engine shows the network
    EnsureImage      image/SHA          the engine has the image
    KeepImage        image/SHA          the engine has the image
    CreateContainer  container/ID       the engine shows the container
    PrepareContainer container/ID       the engine shows the container, which may come here
    Perform          container/ID       the order's answer is reported
    StartContainer   container/ID       the engine shows it running
    RestartContainer container/ID       the engine has restarted it
    Forget           container/ID       the container's records are gone
    Remake           container/ID       the engine no longer shows it; it is made anew
    RemoveStray      stray/ENGINE-ID    the engine no longer shows it
    RemoveNetwork    network/ID         the engine no longer shows it
    RemoveVolume     volume/NAME        the engine no longer shows it, the data and the record are gone
    RemoveCopy       volume/NAME        this host has nothing of a volume that is being removed
    DropVolume       volume/NAME        the engine no longer shows it; the data is not touched
    SetAside         volume/NAME        the live set of a claim that is over is a snapshot
    TidyVolume       volume/NAME        snapshots that nobody needs are gone
    LimitVolume      volume/NAME        the live set cannot outgrow its size
    FillVolume       volume/NAME        the live set is what the record's `filling` says
    BackupVolume     backup/NAME        the facts say how the backup that was due went
    RefreshReplica   replica/NAME       the copies here are equal to the live sets elsewhere
    CopyRounds       move/KEY           the target has nearly all: the move is `stopping`
    StopForMove      container, volume  the source has stopped and set aside: the move is `stopped`
    TakeOver         move/KEY           the target has all and holds the claims: the move is `handed`
    Restore          container, volume  the source is as before: the move is `aborted`
    AbortMove        move/KEY           the move is `aborting`
    FinishMove       move/KEY           the move is `done`
"""

from __future__ import annotations

import msgspec

from drover.model.records import Order


class Step(msgspec.Struct, frozen=True, tag=True):
    """Base of all steps."""

    @property
    def object(self) -> str:
        return ""


class VolumeStep(Step, frozen=True):
    name: str

    @property
    def object(self) -> str:
        return f"volume/{self.name}"


class EnsureVolume(VolumeStep, frozen=True):
    pass


class EnsureNetwork(Step, frozen=True):
    network: str

    @property
    def object(self) -> str:
        return f"network/{self.network}"


class EnsureImage(Step, frozen=True):
    """Have `image_id` on this engine under the name `ref`; `container` is whom it is for (for progress and errors)."""

    container: str
    ref: str
    image_id: str

    @property
    def object(self) -> str:
        return f"image/{self.image_id}"


class KeepImage(Step, frozen=True):
    """Have a spare copy of `image_id`, in case the host that uses it dies; it takes the name `ref` only if that is free
    here. `container` is one that uses it elsewhere."""

    container: str
    ref: str
    image_id: str

    @property
    def object(self) -> str:
        return f"image/{self.image_id}"


class ContainerStep(Step, frozen=True):
    container: str

    @property
    def object(self) -> str:
        return f"container/{self.container}"


class CreateContainer(ContainerStep, frozen=True):
    pass


class PrepareContainer(ContainerStep, frozen=True):
    """Make a container of a suspect host, with the epoch it would have here; nothing is started or answered."""

    epoch: int = 0


class StartContainer(ContainerStep, frozen=True):
    """Start without an order: the container should run, and it was made anew, or ended; not before `due_at`."""

    due_at: float = 0.0


class RestartContainer(ContainerStep, frozen=True):
    """Restart without an order: its health check fails; not before `due_at`."""

    due_at: float = 0.0


class Perform(ContainerStep, frozen=True):
    """Put the order to the engine and report its answer."""

    order: Order


class Forget(ContainerStep, frozen=True):
    """The container is gone from the engine, as it should be: remove its records."""


class Remake(ContainerStep, frozen=True):
    """It is bound to what a volume was under an earlier claim, and does not run: the engine removes it, and it is made
    anew. `finished`: its process had ended for good; it is not to run a second time."""

    finished: bool = False


class RemoveStray(Step, frozen=True):
    """A container of ours that has no business on this host (any more)."""

    engine_id: str
    why: str

    @property
    def object(self) -> str:
        return f"stray/{self.engine_id}"


class RemoveNetwork(Step, frozen=True):
    network: str
    engine_id: str

    @property
    def object(self) -> str:
        return f"network/{self.network}"


class RemoveVolume(VolumeStep, frozen=True):
    pass


class RemoveCopy(VolumeStep, frozen=True):
    """The volume is being removed, and the claim is another host's: what is here goes first."""


class DropVolume(VolumeStep, frozen=True):
    """The engine's volume points at a path of a claim that this host does not hold (any more)."""


class SetAside(VolumeStep, frozen=True):
    """There is a live set here of an epoch that is over: the claim has gone elsewhere."""


class TidyVolume(VolumeStep, frozen=True):
    snapshots: tuple[str, ...]


class LimitVolume(VolumeStep, frozen=True):
    pass


class FillVolume(VolumeStep, frozen=True):
    """The live set is to be made anew: rolled back, cloned or restored."""


class BackupVolume(Step, frozen=True):
    """Back the volume up; not before `due_at`."""

    name: str
    due_at: float = 0.0

    @property
    def object(self) -> str:
        return f"backup/{self.name}"


class RefreshReplica(Step, frozen=True):
    """Bring this host's copies of volumes that go together up to date, in one round; not before `due_at`."""

    names: tuple[str, ...]
    due_at: float = 0.0

    @property
    def object(self) -> str:
        return f"replica/{self.names[0]}"


class MoveStep(Step, frozen=True):
    """Something about the move with this key: a container's id, or `volume:NAME`."""

    key: str

    @property
    def object(self) -> str:
        return f"move/{self.key}"


class CopyRounds(MoveStep, frozen=True):
    pass


class TakeOver(MoveStep, frozen=True):
    pass


class FinishMove(MoveStep, frozen=True):
    pass


class AbortMove(MoveStep, frozen=True):
    why: str


class StopForMove(MoveStep, frozen=True):
    """Its object is the container (or the volume): no order is under way meanwhile."""

    @property
    def object(self) -> str:
        return _moved_object(self.key)


class Restore(MoveStep, frozen=True):
    @property
    def object(self) -> str:
        return _moved_object(self.key)


def _moved_object(key: str) -> str:
    return key.replace(":", "/", 1) if ":" in key else f"container/{key}"


class Wait(msgspec.Struct, frozen=True):
    """Something is not done yet, and why; shown by `drover why`."""

    object: str
    sentence: str


class Plan(msgspec.Struct, frozen=True):
    """What to do now, what waits and why, and when to look again without being woken (seconds of `now`; 0: never)."""

    steps: tuple[Step, ...] = ()
    waits: tuple[Wait, ...] = ()
    again_at: float = 0.0
