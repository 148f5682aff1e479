"""What an engine's JSON answers mean: pure functions from decoded JSON to the port's records.

answer of                    becomes
GET /containers/ID/json      SeenContainer (`seen_container`), OwnFiles (`own_files`), a health check's command
GET /info, /version,         HostFacts (`host_facts`)
  /networks?type=builtin
a line of GET /events        SeenEvent (`seen_event`)
the text of POST             the progress text, or EngineError: the engine says 200 before it knows (`load_report`)
  /images/load
GET /images/ID/history       bytes per layer (`layer_sizes`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drover.drivers.engine.port import EPOCH_LABEL, ID_LABEL, OwnFiles, SeenContainer, SeenEvent
from drover.errors import EngineError
from drover.model.records import HostFacts

NEVER = "0001-01-01T00:00:00Z"


def seen_container(detail: Mapping[str, Any]) -> SeenContainer:
    """A container from its inspect answer. One that Drover did not make has an empty `id`."""
    state = detail["State"]
    labels = detail["Config"].get("Labels") or {}
    networks = detail["NetworkSettings"].get("Networks") or {}
    return SeenContainer(
        id=labels.get(ID_LABEL, ""),
        engine_id=detail["Id"],
        name=detail["Name"].lstrip("/"),
        epoch=_number(labels.get(EPOCH_LABEL, "")),
        state=state["Status"],
        exit_code=state.get("ExitCode", 0),
        oom=state.get("OOMKilled", False),
        health=(state.get("Health") or {}).get("Status", ""),
        error=state.get("Error", ""),
        pid=state.get("Pid", 0),
        started_at=_time(state.get("StartedAt", "")),
        finished_at=_time(state.get("FinishedAt", "")),
        image=detail.get("Image", ""),
        networks={name: endpoint.get("NetworkID", "") for name, endpoint in networks.items()},
        addresses=fixed_addresses(networks),
        volumes=tuple(m.get("Name", "") for m in detail.get("Mounts") or () if m.get("Type") == "volume"),
    )


def fixed_addresses(endpoints: Mapping[str, Any]) -> dict[str, str]:
    """Network name to the address that its endpoint settings fix, where they do."""
    configs = {name: (endpoint or {}).get("IPAMConfig") or {} for name, endpoint in endpoints.items()}
    return {name: config["IPv4Address"] for name, config in configs.items() if config.get("IPv4Address")}


def own_files(detail: Mapping[str, Any], root: str) -> OwnFiles:
    """Where a container's own files are, from its inspect answer. `root` is the engine's directory: the path of a log
    is not in the answer before the first start."""
    graph = detail.get("GraphDriver") or {}
    driver, container = detail["HostConfig"]["LogConfig"]["Type"], f"{root}/containers/{detail['Id']}"
    logs = {
        "json-file": (container, f"{detail['Id']}-json.log"),
        "local": (f"{container}/local-logs", "container.log"),
    }
    directory, stem = logs.get(driver, ("", ""))
    upper = (graph.get("Data") or {}).get("UpperDir", "") if graph.get("Name") == "overlay2" else ""
    return OwnFiles(
        storage_driver=graph.get("Name", ""), layer=upper, log_driver=driver, log_directory=directory, log_stem=stem
    )


def check_command(detail: Mapping[str, Any]) -> list[str]:
    """The command of a container's health check; empty if it has none."""
    kind, *words = (detail["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    shell = detail["Config"].get("Shell") or ["/bin/sh", "-c"]
    return {"CMD": words, "CMD-SHELL": [*shell, *words]}.get(kind, [])


def repeated(command: Sequence[str], within_s: int) -> Sequence[str]:
    """A command of the shell's, run until it succeeds: to begin a process in a container takes an engine longer than
    most checks, so it is begun once. Other commands as they are."""
    if list(command[:-1]) != ["/bin/sh", "-c"]:
        return command
    on_time = '[ "$(date +%s)" -lt "$end" ] || exit 1'
    again = f"until ( {command[-1]}\n) >/dev/null 2>&1; do {on_time}; sleep 0.02 || sleep 1; done"
    return [*command[:-1], f"end=$(($(date +%s)+{within_s})); {again}"]


def _time(text: str) -> str:
    """Docker's time; empty for its way to say never."""
    return "" if text == NEVER else text


def _number(text: str) -> int:
    """A label's number; 0 for anything else, people can write labels."""
    return int(text) if text.isascii() and text.isdigit() else 0


def host_facts(
    host: str, info: Mapping[str, Any], version: Mapping[str, Any], builtin: Iterable[Mapping[str, Any]]
) -> HostFacts:
    """What an engine says of itself and its machine. `os` and `arch` are those of image platforms (linux, amd64)."""
    labels = (label.partition("=") for label in info.get("Labels") or ())
    return HostFacts(
        host=host,
        engine_version=version.get("Version", ""),
        api_version=version.get("ApiVersion", ""),
        min_api_version=version.get("MinAPIVersion", ""),
        os=version.get("Os", ""),
        arch=version.get("Arch", ""),
        kernel=version.get("KernelVersion", ""),
        storage_driver=info.get("Driver", ""),
        log_driver=info.get("LoggingDriver", ""),
        cpus=info.get("NCPU", 0),
        memory_bytes=info.get("MemTotal", 0),
        engine_labels={key: value for key, _, value in labels},
        predefined_networks={network["Name"]: network["Id"] for network in builtin},
    )


def seen_event(line: bytes) -> SeenEvent:
    """One line of the event stream."""
    event = json.loads(line)
    actor = event.get("Actor") or {}
    return SeenEvent(
        kind=event.get("Type", ""),
        action=event.get("Action", ""),
        actor=actor.get("ID", ""),
        labels=actor.get("Attributes") or {},
        time_ns=event.get("timeNano", 0),
    )


def load_report(text: str) -> str:
    """The progress text of `docker load`. Raises `EngineError` 500 if the engine reported an error in it."""
    said = [json.loads(line) for line in text.splitlines() if line.strip()]
    for message in said:
        if "error" in message:
            raise EngineError(500, message["error"])
    return "".join(message.get("stream", "") for message in said)


def layer_sizes(layer_count: int, history: Sequence[Mapping[str, Any]]) -> list[int]:
    """Bytes of each layer, lowest first, from the history (newest first), for progress only.

    The history does not tell steps without a layer from layers without bytes. Steps with bytes are layers for
    sure; the empty layers they leave over are taken to be the topmost, which moves no bytes.
    """
    sizes = [step["Size"] for step in reversed(history) if step.get("Size")]
    return (sizes + [0] * layer_count)[:layer_count]


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The engine's ids of a layer on top of those below it: what it looks for when it loads an image.

    The same diff id on another base is another chain. As in the OCI image specification: the first chain id is
    the diff id, each next one the SHA-256 of `<chain id below> <diff id>`.
    """
    chains: list[str] = []
    for diff_id in diff_ids:
        if chains:
            text = f"{chains[-1]} {diff_id}"
            chains.append("sha256:" + hashlib.sha256(text.encode()).hexdigest())
        else:
            chains.append(diff_id)
    return chains
