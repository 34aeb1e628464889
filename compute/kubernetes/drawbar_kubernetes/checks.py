"""Whether a cluster can be used: it answers, lets us, has room, and its pods see our files."""

from __future__ import annotations

from collections.abc import Sequence

from drawbar.errors import Problem

from drawbar_kubernetes.api import Api
from drawbar_kubernetes.options import KubernetesOptions

_RIGHTS = (
    *(("batch", "jobs", verb) for verb in ("create", "get", "list", "watch", "deletecollection")),
    *(("", "pods", verb) for verb in ("get", "list", "watch")),
)


def problems(api: Api, options: KubernetesOptions) -> Sequence[Problem]:
    """What is wrong, with what to do about it. Raises `BackendError` when no cluster answers."""
    api.version()
    missing = [
        f"{verb} {resource}" for group, resource, verb in _RIGHTS if not api.may(group, resource, verb)
    ]
    found = []
    if missing:
        found.append(
            Problem(
                message=f"kubernetes: not allowed in the namespace {api.namespace}: {', '.join(missing)}",
                hint="give it the Role in docs/reference/kubernetes.md",
            )
        )
    if not options.volumes:
        found.append(
            Problem(
                message="kubernetes: no volumes are named, so that pods cannot see a workspace",
                hint="say in [[backends.kubernetes.volumes]] what this machine and pods share, and where",
            )
        )
    return found
