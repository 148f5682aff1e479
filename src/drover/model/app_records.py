"""The records of applications and of what happened; `records.TABLES` says where each is kept and who writes it."""

from __future__ import annotations

from drover.model.apps import Follow, Resource, Rollout, Run, Service, Trouble
from drover.model.record import Record


class App(Record, frozen=True):
    """An application as last deployed, and its services before that. Networks and volumes by their full names.

    `removed`: the leader takes it away, with its volumes if `remove_volumes`. `warnings`: what of the manifest is not
    honoured. `number` grows with each change.
    """

    name: str
    number: int = 1
    services: dict[str, Service] = {}
    previous: dict[str, Service] = {}
    networks: tuple[Resource, ...] = ()
    volumes: tuple[Resource, ...] = ()
    warnings: tuple[str, ...] = ()
    removed: bool = False
    remove_volumes: bool = False
    deployed_at: float = 0.0


class AppFile(Record, frozen=True):
    """The content of a config or secret, base64. Never shown again; `secret` only says what it was called."""

    app: str
    name: str
    content: str
    secret: bool = False


class Deployment(Record, frozen=True):
    """How far the leader is with an application. `runs`: per scheduled service, the last ones, oldest first.
    `follows`: containers that are still to follow a dependency, by id."""

    app: str
    rollouts: dict[str, Rollout] = {}
    runs: dict[str, tuple[Run, ...]] = {}
    next_due: dict[str, float] = {}
    """When a scheduled service is due next, seconds since the Unix epoch."""
    follows: dict[str, Follow] = {}


class AppTroubles(Record, frozen=True):
    """What could not be done, by its object (`container/NAME`, `network/NAME`, `volume/NAME`)."""

    app: str
    troubles: dict[str, Trouble] = {}


class Event(Record, frozen=True):
    """Something that happened, in plain words: `says` is a sentence about `subject` (a host's, container's or volume's
    name); `at`: when it was noticed, in seconds since the Unix epoch."""

    type: str
    subject: str = ""
    says: str = ""
    at: float = 0.0


class EventHook(Record, frozen=True):
    """Whom to tell of events: a URL or a command. `types`: globs, none for all; `cursor`: the last event dealt with."""

    id: str
    url: str = ""
    command: str = ""
    types: tuple[str, ...] = ()
    cursor: str = ""
