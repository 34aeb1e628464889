"""Who drives a run. One driver at a time writes a run's store; its lease says which.

A lease names the driver by host, boot and process (with its start time, since process ids are used
again). On the same host that is proof enough of life or death. From another host only the heartbeat
is seen: a lease without one for `EXPIRY_S` may be taken over when the user says so.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A driver's hold on a run. `epoch` grows with every new holder; times are in seconds since the epoch."""

    host: str
    boot: str
    pid: int
    started: str
    heartbeat: float
    epoch: int = 0

    @classmethod
    def own(cls) -> Lease:
        """A lease for this process."""
        host, boot = this_host()
        return cls(
            host=host, boot=boot, pid=os.getpid(), started=start_of(os.getpid()), heartbeat=time.time()
        )

    @property
    def local(self) -> bool:
        """Whether its holder is, or was, on this host since it was booted."""
        return (self.host, self.boot) == this_host()

    @property
    def alive(self) -> bool | None:
        """Whether the holder lives; None when that cannot be known from here."""
        host, boot = this_host()
        if self.host != host:
            return None if time.time() - self.heartbeat < EXPIRY_S else False
        return self.boot == boot and self.pid > 0 and start_of(self.pid) == self.started

    @property
    def takeable(self) -> bool:
        """Whether another driver may have the run without asking: its holder is proven dead."""
        return self.host == this_host()[0] and self.alive is False

    def released(self) -> Lease:
        """The same lease, given back."""
        return replace(self, pid=0)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def this_host() -> tuple[str, str]:
    """The name of this host, and an id of its present boot."""
    return socket.gethostname(), _boot_id()


def start_of(pid: int) -> str:
    """When a process of this host started, as text that differs for a later one; empty when there is none."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    found = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        command = ["/usr/sbin/sysctl", "-n", "kern.boottime"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
