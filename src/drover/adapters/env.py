"""Put variables and labels into every container: `python -m drover.adapters.env --config env.yml`.

    env: {HTTP_PROXY: "http://proxy:3128"}   only set where the client has not set them
    labels: {team: web}                      the same
    force: false                             true: set them whatever the client says

List it for `POST /*/containers/create`, as a pre-hook.
"""

from __future__ import annotations

import json
from typing import Any

from drover.adapters.docker import body_of, is_create, plain
from drover.adapters.serve import Decide, Message, main, only_keys, unchanged, with_body


def make(config: dict[str, Any]) -> Decide:
    only_keys(config, frozenset({"env", "labels", "force"}), "the env adapter's file")
    env = {str(name): str(value) for name, value in (config.get("env") or {}).items()}
    labels = {str(name): str(value) for name, value in (config.get("labels") or {}).items()}
    force = bool(config.get("force", False))

    def decide(message: Message) -> dict[str, Any]:
        if not is_create(message):
            return unchanged(message)
        fields = body_of(message)
        body = plain(fields)
        env_key, labels_key = fields.spelling("Env"), fields.spelling("Labels")
        body[env_key] = merge_env(fields.items("Env"), env, force)
        theirs = plain(fields.fields("Labels"))
        body[labels_key] = theirs | labels if force else labels | theirs
        return with_body(message, json.dumps(body))

    return decide


def merge_env(theirs: list[str], ours: dict[str, str], force: bool) -> list[str]:
    """`NAME=value` texts: the client's in its order, then those of ours that it has not, or that are forced."""
    named = {text.partition("=")[0] for text in theirs}
    kept = [text for text in theirs if not (force and text.partition("=")[0] in ours)]
    return kept + [f"{name}={value}" for name, value in ours.items() if force or name not in named]


if __name__ == "__main__":
    main(make, "Put variables and labels into every container.")
