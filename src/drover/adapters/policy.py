"""A safe, limited Docker socket: `python -m drover.adapters.policy --config policy.yml`.

Theory of operation. Everything is refused that no rule allows. A rule for endpoints says which calls may be made at
all; the rules under `containers` say what a container that is created (or an exec, or an update) may ask for. What
the policy does not know, it refuses. Keys are found in any spelling, as the engine finds them.

| key | what | default |
|---|---|---|
| `allow` | list of `METHOD /glob` without version; a `*` does not cross a slash, `**` does | nothing |
| `deny` | the same; wins over `allow` | nothing |
| `containers.images` | globs of allowed image references; a `*` does not cross a slash, `**` does | all |
| `containers.binds` | host directories that may be mounted, exactly these | none |
| `containers.volumes` | whether named volumes may be used | true |
| `containers.privileged` | whether more than an ordinary container's rights may be asked for | false |
| `containers.networks` | globs of allowed networks' names (`host`, `container:…` and ids need `privileged`) | all |
| `containers.users` | globs of allowed users (`""` is the image's own) | all |
| `callers` | globs of identities that may call (`uid:1000`, `cn:NAME`); needs `protocol: 2` | everybody |

List it as the first pre-hook of `* *`, which is every call. Upgrades to HTTP/2 are refused by the gateway itself.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from drover.adapters.docker import Fields, body_of, endpoint_of, plain, query_of
from drover.adapters.serve import Decide, Message, Refuse, main, only_keys, unchanged
from drover.errors import Invalid

_TOP = frozenset({"allow", "deny", "containers", "callers"})
_CONTAINERS = frozenset({"images", "binds", "volumes", "privileged", "networks", "users"})
_PRIVILEGES = (
    *("Privileged", "CapAdd", "Devices", "DeviceRequests", "DeviceCgroupRules", "SecurityOpt", "PidMode", "IpcMode"),
    *("UTSMode", "UsernsMode", "CgroupnsMode", "CgroupParent", "Cgroup", "Runtime", "Sysctls", "VolumesFrom"),
    *("GroupAdd", "OomScoreAdj", "MaskedPaths", "ReadonlyPaths", "VolumeDriver", "Isolation", "Annotations"),
)
"""Parts of HostConfig with which a container can reach the host or another container."""
_EMPTY_COUNTS = frozenset({"MaskedPaths", "ReadonlyPaths"})
"""Where an empty list asks for more than nothing does."""
_HARMLESS = {
    "IpcMode": ("private", "none", "shareable"),
    "CgroupnsMode": ("private",),
    "Runtime": ("runc",),
    "SecurityOpt": (["no-new-privileges"], ["no-new-privileges:true"]),
}
"""Values of those that change nothing, or take rights away."""
_OWN_LOGS = ("", "json-file", "local", "none")
"""Log drivers that keep to the engine's own files. Others have the engine, as root of the host, open sockets and files
that the container names."""
_OWN_NETWORKS = ("", "bridge", "overlay")
"""Network drivers that give no place on a network of the host's."""
_HARMLESS_NETWORK_OPTIONS = frozenset({"com.docker.network.driver.mtu", "encrypted"})
_BUILD_PRIVILEGES = ("securityopt", "cgroupparent", "isolation")
"""Parameters of a build with which it reaches the host."""
_NETWORK_ID = re.compile(r"[0-9a-f]{12,64}")
_ORDINARY = (
    *("Binds", "ContainerIDFile", "LogConfig", "NetworkMode", "PortBindings", "RestartPolicy", "AutoRemove", "Mounts"),
    *("ConsoleSize", "CapDrop", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "Links", "PublishAllPorts", "Init"),
    *("ReadonlyRootfs", "StorageOpt", "Tmpfs", "ShmSize", "CpuShares", "Memory", "NanoCpus", "BlkioWeight"),
    *("BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"),
    *("CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpusetCpus", "CpusetMems", "KernelMemory"),
    *("KernelMemoryTCP", "MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable", "PidsLimit"),
    *("Ulimits", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth"),
)
_KNOWN = frozenset(name.casefold() for name in (*_PRIVILEGES, *_ORDINARY))
_CONFIG = (
    *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Platform"),
    *("Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir"),
    *("Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell", "Name"),
    *("HostConfig", "NetworkingConfig", "Cpuset", "PortSpecs", "PublishService"),
)
"""What a create call's body has beside HostConfig, or old clients send."""
_KNOWN_AT_TOP = _KNOWN | {name.casefold() for name in _CONFIG}
_BEYOND_CONTAINERS = re.compile(r"/(services|plugins|swarm|nodes|secrets|configs|session|grpc)(/.*)?")
_NAMES_IMAGES = re.compile(r"/(images/(load|.+/tag)|commit|build)")


def make(config: dict[str, Any]) -> Decide:
    """The policy's function. Raises `Invalid` for a file that is not a policy."""
    only_keys(config, _TOP, "the policy")
    containers = config.get("containers") or {}
    only_keys(containers, _CONTAINERS, "`containers`")
    allow, deny = _endpoints(config.get("allow")), _endpoints(config.get("deny"))
    callers = _texts(config.get("callers"))
    rules = ContainerRules(containers)

    def decide(message: Message) -> dict[str, Any]:
        if message["Type"] == "pre-hook":
            refuse_caller(message, callers)
            method, path = endpoint_of(message)
            if not _matches(f"{method} {path}", allow) or _matches(f"{method} {path}", deny):
                raise Refuse(f"the policy does not allow {method} {path}")
            rules.check(message, method, path)
        return unchanged(message)

    return decide


def _texts(value: Any) -> list[str] | None:
    """A list of texts, or None if nothing is said."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Invalid(f"{value!r} is no list of texts")
    return value


def _endpoints(value: Any) -> list[re.Pattern[str]]:
    patterns = []
    for text in _texts(value) or []:
        if not re.fullmatch(r"\S+ /\S*", text):
            raise Invalid(f"{text!r} is not of the form METHOD /glob")
        parts = (".*" if part == "**" else "[^/]*" if part == "*" else re.escape(part) for part in _split(text))
        patterns.append(re.compile("".join(parts), re.DOTALL))
    return patterns


def _split(text: str) -> list[str]:
    return re.split(r"(\*\*|\*)", text)


def _matches(text: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    return any(pattern.fullmatch(text) for pattern in patterns)


def _globbed(value: str, globs: list[str] | None) -> bool:
    return globs is None or any(fnmatch.fnmatchcase(value, glob) for glob in globs)


def _is_image_of(image: str, glob: str) -> bool:
    """`nginx:*` must not be `nginx:5000/evil`, which is another registry's image."""
    parts, globs = image.split("/"), glob.split("/")
    if "**" in glob:
        return fnmatch.fnmatchcase(image, glob)
    return len(parts) == len(globs) and all(map(fnmatch.fnmatchcase, parts, globs))


def familiar(image: str) -> str:
    """`docker.io/library/nginx` as people write it, which newer clients do not: `nginx`."""
    registry, _, path = image.partition("/")
    first, slash, rest = path.partition("/")
    if registry != "docker.io" or (slash and (set(first) & {".", ":"} or first == "localhost")):
        return image
    return rest if first == "library" and slash and "/" not in rest else path


def _refuse_unknown(fields: Fields, known: frozenset[str], where: str) -> None:
    for name in fields.spelled:
        if name.casefold() not in known:
            raise Refuse(f"the policy does not know {where}{name}")


def refuse_caller(message: Message, callers: list[str] | None) -> None:
    who = (message.get("Client") or {}).get("Identity") or ""
    if callers is not None and not (who and _globbed(who, callers)):
        raise Refuse(f"the policy does not allow calls by {who or 'nobody known'}")


class ContainerRules:
    """What containers may ask for."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.images = _texts(config.get("images"))
        self.networks = _texts(config.get("networks"))
        self.users = _texts(config.get("users"))
        self.binds = [posixpath.normpath(path) for path in _texts(config.get("binds")) or []]
        self.volumes = bool(config.get("volumes", True))
        self.privileged = bool(config.get("privileged", False))

    def check(self, message: Message, method: str, path: str) -> None:
        """Raises `Refuse` if what is created, executed or changed may not be so."""
        if method != "POST":
            return
        if path == "/containers/create":
            self._check_create(body_of(message))
        elif path == "/volumes/create":
            self._check_volume(body_of(message))
        elif path == "/networks/create":
            self._check_network_driver(body_of(message))
        elif path == "/images/create" or _NAMES_IMAGES.fullmatch(path):
            self._check_image_call(message, path)
        elif found := re.fullmatch(r"/containers/.+/(exec|update|start)", path):
            self._check_change(message, found[1])
        elif found := re.fullmatch(r"/networks/(.+)/connect", path):
            self._check_network(found[1])
        elif _BEYOND_CONTAINERS.fullmatch(path):
            self._refuse_unless_privileged(path)

    def _check_create(self, body: Fields) -> None:
        """The engine takes HostConfig's fields at the top of the body too, so both places are looked at."""
        host = body.fields("HostConfig")
        self._check_image(str(body.get("Image") or ""))
        self._check_user(str(body.get("User") or ""))
        _refuse_unknown(host, _KNOWN, "HostConfig.")
        _refuse_unknown(body, _KNOWN_AT_TOP, "")
        for place in (host, body):
            self._check_host_config(place)
        self._check_network(str(host.get("NetworkMode") or ""))
        for network in body.fields("NetworkingConfig").fields("EndpointsConfig").spelled:
            self._check_network(network)

    def _check_host_config(self, host: Fields) -> None:
        for name in _PRIVILEGES:
            self._check_privilege(name, plain(host.get(name)))
        for bind in host.items("Binds"):
            self._check_source(str(bind).partition(":")[0])
        for mount in host.items("Mounts"):
            self._check_mount(mount if isinstance(mount, Fields) else Fields([]))
        if (log_driver := str(host.fields("LogConfig").get("Type") or "")) not in _OWN_LOGS:
            self._refuse_unless_privileged(f"the log driver {log_driver!r}")
        if host.get("NetworkMode") is not None:
            self._check_network(str(host.get("NetworkMode")))

    def _check_image(self, image: str) -> None:
        names = (image, familiar(image))
        if self.images is not None and not any(_is_image_of(name, glob) for name in names for glob in self.images):
            raise Refuse(f"the policy does not allow the image {image!r}")

    def _check_user(self, user: str) -> None:
        if not _globbed(user, self.users):
            raise Refuse(f"the policy does not allow the user {user!r}")

    def _check_privilege(self, name: str, value: Any) -> None:
        said = value is not None if name in _EMPTY_COUNTS else bool(value)
        if said and value not in _HARMLESS.get(name, ()):
            self._refuse_unless_privileged(name)

    def _refuse_unless_privileged(self, what: str) -> None:
        if not self.privileged:
            raise Refuse(f"the policy does not allow {what}")

    def _check_source(self, source: str) -> None:
        """A bind's source: a host's path, else a volume's name. Only the very directories that are listed: what is
        below them may be a link that a container has put there."""
        if not source.startswith(("/", ".", "~", "\\")):
            self._check_volumes(source)
        elif "/" + posixpath.normpath(source).lstrip("/") not in self.binds:
            raise Refuse(f"the policy does not allow to mount {source}")

    def _check_volumes(self, name: str) -> None:
        if not self.volumes:
            raise Refuse(f"the policy does not allow the volume {name!r}")

    def _check_mount(self, mount: Fields) -> None:
        kind, source = str(mount.get("Type") or ""), str(mount.get("Source") or "")
        if kind == "bind":
            self._check_source(source if source.startswith("/") else "/" + source)
        elif kind == "volume":
            self._check_volumes(source)
            driver = mount.fields("VolumeOptions").fields("DriverConfig")
            self._check_driver(driver.get("Name"), driver.get("Options"))
        elif kind != "tmpfs":
            raise Refuse(f"the policy does not allow mounts of type {kind!r}")

    def _check_driver(self, name: Any, options: Any) -> None:
        """A volume's options can mount any directory of the host."""
        if str(name or "local") != "local" or plain(options):
            self._refuse_unless_privileged("volumes with a driver or options")

    def _check_volume(self, body: Fields) -> None:
        self._check_volumes(str(body.get("Name") or ""))
        self._check_driver(body.get("Driver"), body.get("DriverOpts"))

    def _check_network(self, mode: str) -> None:
        """By name: which network an id means, only the engine knows, and the host's has one too."""
        mode = mode or "default"
        if not _globbed(mode, self.networks):
            raise Refuse(f"the policy does not allow the network {mode!r}")
        if mode == "host" or mode.startswith("container:"):
            self._refuse_unless_privileged(f"the network {mode!r}")
        if _NETWORK_ID.fullmatch(mode):
            self._refuse_unless_privileged(f"networks by id ({mode}), name them")

    def _check_network_driver(self, body: Fields) -> None:
        """Of a new network: others' drivers, and options, can put it on the host's own interfaces and bridges."""
        driver, options = str(body.get("Driver") or ""), body.fields("Options").spelled
        if driver not in _OWN_NETWORKS or not _HARMLESS_NETWORK_OPTIONS.issuperset(options):
            self._refuse_unless_privileged("networks with other drivers or options")
        if body.get("ConfigFrom"):
            self._refuse_unless_privileged("networks made from another's configuration")

    def _check_change(self, message: Message, verb: str) -> None:
        """An exec, an update, or a start with a body (which old versions of the API let configure the container)."""
        if verb == "start" and not message["ClientRequest"]["Body"]:
            return
        body = body_of(message)
        self._check_host_config(body)
        if verb == "exec":
            self._check_user(str(body.get("User") or ""))

    def _check_image_call(self, message: Message, path: str) -> None:
        """With a list of images, a pull must be of one of them, and nothing else may give an image its name."""
        query = query_of(message)
        if path == "/build":
            self._check_build(query)
        if self.images is None:
            return
        image, tag = query.get("fromImage", [""])[0], query.get("tag", [""])[0]
        if path != "/images/create" or not image:
            raise Refuse(f"the policy allows some images only, so not {path}")
        self._check_image(f"{image}@{tag}" if ":" in tag else f"{image}:{tag}" if tag else image)

    def _check_build(self, query: dict[str, list[str]]) -> None:
        """Its steps run in containers too, as root, on the network that it names."""
        self._check_network(query.get("networkmode", [""])[0])
        for name in _BUILD_PRIVILEGES:
            if any(query.get(name, ())):
                self._refuse_unless_privileged(f"builds with {name}")


if __name__ == "__main__":
    main(make, "A safe, limited Docker socket.")
