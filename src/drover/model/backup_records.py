"""The records of what a volume is filled from, and of where and when it is backed up."""

from __future__ import annotations

from typing import Literal

from drover.model.record import Record


class Fill(Record, frozen=True):
    """How a volume's live set is made anew, by the host that holds the claim; it can be repeated until it succeeds.

    kind       the live set becomes
    rollback   what `snapshot` holds
    clone      what `snapshot` of the volume `source` holds
    import     what a client sends (and nothing until one does)
    restore    what the backup `snapshot` of `source` in `repository` holds

    `aside`: the snapshot that the present live set becomes first; empty: there is none worth keeping.
    """

    kind: Literal["rollback", "clone", "import", "restore"]
    snapshot: str = ""
    source: str = ""
    repository: str = ""
    aside: str = ""


class Backup(Record, frozen=True):
    """Where a volume is backed up. `every_s` 0: when asked; `keep`: how many backups stay (0: all). `asked` counts the
    times somebody asked for one now. No secrets: those are in a file on each host."""

    repository: str
    every_s: float = 0.0
    keep: int = 0
    asked: int = 0


class BackupFacts(Record, frozen=True):
    """How this host's last backup of a volume ended: of which demand, when it was tried; why it failed, if it did. `at`
    and `id` are of the last good one."""

    asked: int = 0
    tried_at: float = 0.0
    at: float = 0.0
    id: str = ""
    failure: str = ""
    progress: str = ""
