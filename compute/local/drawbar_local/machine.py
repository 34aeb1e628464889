"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cpus() -> float:
    """The CPUs that jobs may use together: the affinity mask, and the quota of the control group."""
    if hasattr(os, "sched_getaffinity"):
        count = float(len(os.sched_getaffinity(0)))
    else:
        count = float(os.cpu_count() or 1)
    for quota in _cgroup_values("cpu.max"):
        limit, _, period = quota.partition(" ")
        if limit.isdigit() and period.strip().isdigit():
            count = min(count, int(limit) / int(period))
    return count


def memory_mib() -> int:
    """The memory that jobs may use together: what is built in, and the limit of the control group."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _cgroup_values("memory.max"):
        if limit.isdigit():
            size = min(size, int(limit))
    return size >> 20


def gpus() -> int:
    """How many NVIDIA devices there are."""
    return sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))


def _cgroup_values(name: str) -> Iterator[str]:
    """A setting of this process's control group and of all above it (the unified hierarchy only)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return
    group = _CGROUPS / own.lstrip("/")
    for place in (group, *group.parents):
        if not place.is_relative_to(_CGROUPS):
            return
        try:
            yield (place / name).read_text().strip()
        except OSError:
            continue  # the root has no limits, and a container may see less
