"""Create bodies of containers whose volumes come with their content: nothing of the image is copied into them. Pure."""

from __future__ import annotations


def without_copying(body: dict[str, object], volumes: tuple[str, ...]) -> dict[str, object]:
    """A create body that copies no image content into these volumes."""
    host = body.get("HostConfig")
    host = dict(host) if isinstance(host, dict) else {}
    binds = host.get("Binds")
    if isinstance(binds, list):
        host["Binds"] = [_nocopy(bind) if bind.partition(":")[0] in volumes else bind for bind in binds]
    mounts = host.get("Mounts")
    if isinstance(mounts, list):
        host["Mounts"] = [_uncopied(one) if one.get("Source") in volumes else one for one in mounts]
    return {**body, "HostConfig": host}


def _nocopy(bind: str) -> str:
    name, target, *modes = bind.split(":")
    have = ",".join(modes).split(",") if modes else []
    return bind if "nocopy" in have else f"{name}:{target}:{','.join([*have, 'nocopy'])}"


def _uncopied(mount: dict[str, object]) -> dict[str, object]:
    options = mount.get("VolumeOptions")
    return {**mount, "VolumeOptions": {**(options if isinstance(options, dict) else {}), "NoCopy": True}}
