"""The bare form: services at the top level, nothing else.

    helloworld:
      image: binocarlos/hello
      cmd: echo "hello world!"

It becomes a Compose file with those services, and is then resolved by Compose like any other. `cmd` is Docker's word
for what Compose calls `command`; every other key is Compose's own.
"""

from __future__ import annotations

from typing import Any

from drover.errors import Invalid

COMPOSE_KEYS = frozenset(
    {"services", "networks", "volumes", "configs", "secrets", "include", "name", "version", "models"}
)


def is_bare(document: Any) -> bool:
    """Whether a manifest is of the bare form: no key of a Compose file, and each entry is a service with an image."""
    if not isinstance(document, dict) or not document or COMPOSE_KEYS & document.keys():
        return False
    services = [one for name, one in document.items() if not str(name).startswith("x-")]
    return bool(services) and all(isinstance(one, dict) and "image" in one for one in services)


def as_compose(document: dict[str, Any]) -> dict[str, Any]:
    """The Compose file that a bare manifest stands for."""
    extensions = {name: value for name, value in document.items() if str(name).startswith("x-")}
    services = {str(name): _service(str(name), one) for name, one in document.items() if name not in extensions}
    return {**extensions, "services": services}


def _service(name: str, service: dict[str, Any]) -> dict[str, Any]:
    if "cmd" in service and "command" in service:
        raise Invalid(f"service {name} has both cmd and command", hint="they mean the same: keep one")
    return {("command" if key == "cmd" else key): value for key, value in service.items()}
