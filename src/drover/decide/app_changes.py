"""What people change about applications: deploy, scale, roll back, remove; each as the changes of one commit.

Theory of operation. A deployment that says what the record says already changes nothing; but a rollout that was halted
or turned back is begun again, for whoever deploys once more wants that. What was last known to work stays in
`previous`: a version whose rollout failed never becomes what the next failure goes back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from drover.decide.app_view import named_app
from drover.decide.ports import port_claims
from drover.decide.services import Draft
from drover.errors import Conflict, Invalid, NotFound
from drover.model.apps import Service
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import App, AppFile, Deployment, Order, key

HALTED = ("paused", "reverting", "reverted")
Contents = Mapping[tuple[str, str], str]
"""(`configs` or `secrets`, key in the manifest) to content, base64."""


def file_ids(cluster: Cluster, app: str, contents: Contents, fresh: Callable[[], str]) -> dict[tuple[str, str], str]:
    """An id for each content: the one it has already, or a new one. Nothing about a secret can be told from its id."""
    known = {
        (one.secret, one.name, one.content): rest.partition("/")[2]
        for rest, one in cluster.files.items()
        if one.app == app
    }
    return {
        (kind, name): known.get((kind == "secrets", name, content)) or fresh()
        for (kind, name), content in contents.items()
    }


def deploy_draft(
    cluster: Cluster, wanted: App, contents: Contents, ids: Mapping[tuple[str, str], str], now: float
) -> Draft:
    """The commit of a deployment; no changes if it is deployed already. Raises `Conflict` while it is being removed."""
    name = wanted.name
    current = cluster.apps.get(name)
    if current is not None and current.removed:
        raise Conflict(f"application {name} is being removed", hint="deploy it again when it is gone: `drover app ls`")
    _refuse_foreign(cluster, wanted)
    deployment = cluster.deployments.get(name)
    changes: list[Change] = []
    if current is None or not same(current, wanted):
        changes.append(put(key("apps", name), _next(current, wanted, deployment, now)))
        changes += _files(cluster, name, contents, ids)
    changes += _begun_again(deployment)
    return _draft(cluster, changes, name)


def same(current: App, wanted: App) -> bool:
    """Whether a deployment would change nothing of what was asked last."""
    return all(
        getattr(current, field) == getattr(wanted, field) for field in ("services", "networks", "volumes", "warnings")
    )


def _refuse_foreign(cluster: Cluster, wanted: App) -> None:
    """External networks and volumes must be there."""
    for one in wanted.networks:
        if not one.body and one.name not in cluster.network_names:
            raise NotFound(
                f"network {one.name} is external, and is not there", hint=f"docker network create {one.name}"
            )
    for one in wanted.volumes:
        if not one.body and one.name not in cluster.volumes:
            raise NotFound(f"volume {one.name} is external, and is not there", hint=f"docker volume create {one.name}")


def _next(current: App | None, wanted: App, deployment: Deployment | None, now: float) -> App:
    if current is None:
        return msgspec.structs.replace(wanted, deployed_at=now)
    previous = {
        name: _last_good(current, deployment, name, service)
        for name, service in current.services.items()
        if name in wanted.services
    }
    return msgspec.structs.replace(wanted, number=current.number + 1, previous=previous, deployed_at=now)


def _last_good(current: App, deployment: Deployment | None, name: str, service: Service) -> Service:
    """What a failure goes back to: the version deployed now, unless it is one that failed itself."""
    rollout = deployment.rollouts.get(name) if deployment is not None else None
    failed = rollout is not None and rollout.to == service.hash and rollout.state != "done"
    return current.previous.get(name, service) if failed else service


def _begun_again(deployment: Deployment | None) -> list[Change]:
    if deployment is None or all(one.state not in HALTED for one in deployment.rollouts.values()):
        return []
    rollouts = {name: one for name, one in deployment.rollouts.items() if one.state not in HALTED}
    changed = msgspec.structs.replace(deployment, rollouts=rollouts)
    return [put(key("deployments", deployment.app), changed)]


def _files(cluster: Cluster, app: str, contents: Contents, ids: Mapping[tuple[str, str], str]) -> Iterable[Change]:
    for (kind, name), content in contents.items():
        rest = f"{app}/{ids[kind, name]}"
        if rest not in cluster.files:
            yield put(key("files", rest), AppFile(app=app, name=name, content=content, secret=kind == "secrets"))


def scale_draft(cluster: Cluster, name: str, service: str, replicas: int) -> Draft:
    app = named_app(cluster, name)
    found = _named_service(app, service)
    if found.mode.startswith("global"):
        raise Invalid(f"{name}/{service} is global: it has one container on each host")
    if replicas < 0:
        raise Invalid(f"{replicas} is no number of containers")
    if found.name and replicas > 1:
        raise Invalid(f"{name}/{service} has the container_name {found.name}: there can be only one")
    if found.replicas == replicas:
        return Draft()
    services = {**app.services, service: msgspec.structs.replace(found, replicas=replicas)}
    changed = msgspec.structs.replace(app, services=services, number=app.number + 1)
    return _draft(cluster, [put(key("apps", name), changed)], name)


def _named_service(app: App, service: str) -> Service:
    found = app.services.get(service)
    if found is None:
        raise NotFound(
            f"application {app.name} has no service {service}", hint=f"it has {', '.join(sorted(app.services))}"
        )
    return found


def rollback_draft(cluster: Cluster, name: str, now: float) -> Draft:
    """Every service as it was before the last change of it; a second time: forward again."""
    app = named_app(cluster, name)
    back = {one: before for one, before in app.previous.items() if before.hash != app.services[one].hash}
    if not back:
        raise Conflict(f"application {name} has no version before this one", hint="see `drover app inspect`")
    services = {one: _as_before(service, back.get(one)) for one, service in app.services.items()}
    previous = {**app.previous, **{one: app.services[one] for one in back}}
    changed = msgspec.structs.replace(app, services=services, previous=previous, number=app.number + 1, deployed_at=now)
    deployment = cluster.deployments.get(name)
    return _draft(cluster, [put(key("apps", name), changed), *_begun_again(deployment)], name)


def _as_before(service: Service, before: Service | None) -> Service:
    return service if before is None else msgspec.structs.replace(before, replicas=service.replicas)


def remove_draft(cluster: Cluster, name: str, volumes: bool) -> Draft:
    app = named_app(cluster, name)
    changed = msgspec.structs.replace(app, removed=True, remove_volumes=volumes or app.remove_volumes)
    return _draft(cluster, [put(key("apps", name), changed)] if changed != app else [], name)


def start_draft(cluster: Cluster, container: str) -> Draft:
    """A start order for a container whose host cannot be asked: as the gateway writes it, with its ports. No changes if
    it has one already. Raises what the ports refuse."""
    record = cluster.containers.get(container)
    if record is None or record.desired != "created":
        return Draft()
    order = Order(number=record.order.number + 1, verb="start")
    claims = port_claims(cluster, record)
    told = put(key("containers", container), msgspec.structs.replace(record, order=order, desired="running"))
    return Draft((told, *claims.changes), {**claims.expect, told.key: cluster.version(told.key)})


def _draft(cluster: Cluster, changes: Iterable[Change], name: str) -> Draft:
    changes = tuple(changes)
    expect = {change.key: cluster.version(change.key) for change in changes}
    return Draft(changes, expect | {key("apps", name): cluster.version(key("apps", name))} if changes else {})


def forgotten(cluster: Cluster, name: str) -> list[Change]:
    """The records of an application that is gone."""
    gone = [key(table, name) for table in ("apps", "deployments", "app_troubles")]
    return [delete(one) for one in gone] + [
        delete(key("files", rest)) for rest in cluster.files if rest.startswith(f"{name}/")
    ]
