"""Steps: what one host should do next, as values. `agent.act` performs them in one `match`.

Each step has an `object` (what it is about): the agent runs at most one step per object at a time, then looks again.

    step             object             done when
    EnsureVolume     volume/NAME        the engine shows the volume
    EnsureNetwork    network/ID         the engine shows the network
    EnsureImage      image/SHA          the engine has the image
    CreateContainer  container/ID       the engine shows the container
    Perform          container/ID       the order's answer is reported
    StartContainer   container/ID       the engine shows it running
    Forget           container/ID       the container's records are gone
    RemoveStray      stray/ENGINE-ID    the engine no longer shows it
    RemoveNetwork    network/ID         the engine no longer shows it
    RemoveVolume     volume/NAME        the engine no longer shows it, the data and the record are gone
"""

from __future__ import annotations

import msgspec

from drover.model.records import Order


class Step(msgspec.Struct, frozen=True, tag=True):
    """Base of all steps."""

    @property
    def object(self) -> str:
        return ""


class EnsureVolume(Step, frozen=True):
    name: str

    @property
    def object(self) -> str:
        return f"volume/{self.name}"


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


class ContainerStep(Step, frozen=True):
    container: str

    @property
    def object(self) -> str:
        return f"container/{self.container}"


class CreateContainer(ContainerStep, frozen=True):
    pass


class StartContainer(ContainerStep, frozen=True):
    """Start without an order: the container should run, and it was made anew."""


class Perform(ContainerStep, frozen=True):
    """Put the order to the engine and report its answer."""

    order: Order


class Forget(ContainerStep, frozen=True):
    """The container is gone from the engine, as it should be: remove its records."""


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


class RemoveVolume(Step, frozen=True):
    name: str

    @property
    def object(self) -> str:
        return f"volume/{self.name}"


class Wait(msgspec.Struct, frozen=True):
    """Something is not done yet, and why; shown by `drover why`."""

    object: str
    sentence: str


class Plan(msgspec.Struct, frozen=True):
    """What to do now, what waits and why, and when to look again without being woken (seconds of `now`; 0: never)."""

    steps: tuple[Step, ...] = ()
    waits: tuple[Wait, ...] = ()
    again_at: float = 0.0
