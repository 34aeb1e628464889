"""What an environment asks of the place where its step runs, in packtivity's words and in REANA's keys."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from drawbar.model import Mount, Resources

CREDENTIALS: Mapping[str, str] = {"GRIDProxy": "voms_proxy", "KRB5Auth": "kerberos"}
"""Words for credentials, and the hints that they are in REANA."""
_CVMFS, _CVMFS_PLACE = "CVMFS", "/cvmfs"
_UNITS = {"": 1, **{unit: 1000**power for power, unit in enumerate("kMGTPE", 1)}, "K": 1000}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kKMGTPE]i?)?")


def image_of(environment: Mapping[str, Any]) -> str | None:
    """The image of an environment, with its tag."""
    image = environment.get("image")
    if image is None or "@" in image:
        return image
    image = str(image)
    tagged = ":" in image.rpartition("/")[2]
    return image if tagged and environment["imagetag"] == "latest" else f"{image}:{environment['imagetag']}"


def hints_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """REANA's keys, for the backends that understand them, and packtivity's words as such keys."""
    hints: dict[str, Any] = {}
    for item in environment.get("resources", ()):
        if isinstance(item, Mapping):
            hints.update(item)
        elif item != _CVMFS:
            hints[CREDENTIALS.get(str(item), str(item))] = True
    return hints


def resources_of(environment: Mapping[str, Any]) -> Resources:
    """The keys of REANA that mean the same on every backend. ValueError for one that makes no sense."""
    hints = hints_of(environment)
    given: dict[str, Any] = {}
    if value := hints.get("kubernetes_cpu_request"):
        given["cpus"] = _quantity("kubernetes_cpu_request", value)
    for key, name in (("request", "memory_mib"), ("limit", "memory_limit_mib")):
        if value := hints.get(f"kubernetes_memory_{key}"):
            given[name] = math.ceil(_quantity(f"kubernetes_memory_{key}", value) / 2**20)
    if value := hints.get("kubernetes_job_timeout"):
        given["walltime_s"] = _quantity("kubernetes_job_timeout", value)
    return Resources(**given)


def mounts_of(environment: Mapping[str, Any]) -> Iterator[Mount]:
    """What a container shall see besides the workspace; a backend without it refuses the job."""
    if _CVMFS in environment.get("resources", ()):
        yield Mount(source=_CVMFS_PLACE, target=_CVMFS_PLACE, read_only=True)


def unknown(environment: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The words among the resources that nobody knows, with their indices."""
    for number, item in enumerate(environment.get("resources", ())):
        if not isinstance(item, Mapping) and item not in (_CVMFS, *CREDENTIALS):
            yield number, str(item)


def _quantity(name: str, value: Any) -> float:
    match = _QUANTITY.fullmatch(str(value).strip())
    number = float(match[1]) if match else 0.0
    if match is None or not number > 0:
        raise ValueError(f"{name}: {value!r} is no quantity such as 2, 500m, 512Mi or 2Gi")
    return number / 1000 if match[2] == "m" else number * _UNITS[match[2] or ""]
