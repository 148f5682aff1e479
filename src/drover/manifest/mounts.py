"""A service's `volumes` as `Binds` and `Mounts`, and its configs and secrets as files.

type      becomes
volume    a mount of the named volume, or of a new one each time where it has no name
bind      a bind where the path may be made (`create_host_path`) or relabelled; else a mount, which must find it
tmpfs     a mount
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from drover.errors import Invalid
from drover.manifest.values import mapping, size_bytes
from drover.model.apps import FileUse


def binds_and_mounts(service: Mapping[str, Any], volumes: Mapping[str, str], where: str) -> dict[str, Any]:
    """`volumes`: a volume's key to its full name. Raises `Invalid` for one that is not declared."""
    binds: list[str] = []
    mounts: list[dict[str, Any]] = []
    for one in service.get("volumes") or ():
        asked = mapping(one, f"{where}.volumes")
        options = mapping(asked.get("bind"), where)
        made_if_absent = options.get("create_host_path", False) or options.get("selinux")
        if asked.get("type") == "bind" and made_if_absent:
            binds.append(_bind(asked, options))
        elif mount := _mount(asked, volumes, where):
            mounts.append(mount)
    return {**({"Binds": binds} if binds else {}), **({"Mounts": mounts} if mounts else {})}


def _bind(asked: dict[str, Any], options: dict[str, Any]) -> str:
    mode = ["ro"] if asked.get("read_only") else ["rw"]
    mode += [str(options[name]) for name in ("selinux", "propagation") if options.get(name)]
    return f"{asked['source']}:{asked['target']}:{','.join(mode)}"


def _mount(asked: dict[str, Any], volumes: Mapping[str, str], where: str) -> dict[str, Any] | None:
    """The mount; None for a kind that is named among what is not honoured."""
    kind = asked.get("type")
    common = {"Type": kind, "Target": asked.get("target"), "ReadOnly": bool(asked.get("read_only"))}
    if kind == "volume":
        return common | _volume(asked, volumes, where)
    if kind == "bind":
        propagation = mapping(asked.get("bind"), where).get("propagation")
        options = {"BindOptions": {"Propagation": propagation}} if propagation else {}
        return {**common, "Source": asked.get("source"), **options}
    if kind == "tmpfs":
        return common | _tmpfs(mapping(asked.get("tmpfs"), where), where)
    return None


def _volume(asked: dict[str, Any], volumes: Mapping[str, str], where: str) -> dict[str, Any]:
    source, options = asked.get("source"), mapping(asked.get("volume"), where)
    if source and source not in volumes:
        raise Invalid(f"{where} uses the volume {source}, which the manifest does not declare")
    found: dict[str, Any] = {"Source": volumes[source]} if source else {}
    fields = {"nocopy": "NoCopy", "labels": "Labels", "subpath": "Subpath"}
    told = {field: options[key] for key, field in fields.items() if options.get(key)}
    return {**found, **({"VolumeOptions": told} if told else {})}


def _tmpfs(options: dict[str, Any], where: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if options.get("size"):
        told["SizeBytes"] = size_bytes(options["size"], f"{where}.volumes.tmpfs.size")
    if options.get("mode"):
        told["Mode"] = int(str(options["mode"]), 8) if isinstance(options["mode"], str) else options["mode"]
    return {"TmpfsOptions": told} if told else {}


def file_uses(service: Mapping[str, Any], ids: Mapping[tuple[str, str], str], where: str) -> tuple[FileUse, ...]:
    """The configs and secrets of a service. `ids`: (`configs` or `secrets`, key) to the content's id."""

    def default(source: str) -> str:
        return f"/{source}"

    def default_secret(source: str) -> str:
        return f"/run/secrets/{source}"

    return (
        *_uses("configs", service.get("configs") or (), ids, default, where),
        *_uses("secrets", service.get("secrets") or (), ids, default_secret, where),
    )


def _uses(
    kind: str,
    asked: Iterable[Any],
    ids: Mapping[tuple[str, str], str],
    default: Callable[[str], str],
    where: str,
) -> Iterable[FileUse]:
    for one in asked:
        use = {"source": one} if isinstance(one, str) else mapping(one, f"{where}.{kind}")
        source = str(use["source"])
        if (kind, source) not in ids:
            raise Invalid(f"{where} uses {kind[:-1]} {source}, which the manifest does not declare")
        target = str(use.get("target") or default(source))
        yield FileUse(
            file=ids[kind, source],
            target=target if target.startswith("/") else default(target),
            mode=_octal(use.get("mode")),
            uid=str(use.get("uid") or "0"),
            gid=str(use.get("gid") or "0"),
        )


def _octal(mode: Any) -> str:
    """Octal text: Compose gives `"0440"`, YAML of older versions a number that was octal."""
    return "0444" if mode is None else f"0{mode:o}" if isinstance(mode, int) else str(mode)
