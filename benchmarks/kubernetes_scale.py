"""What the Kubernetes backend takes for each of 1,000 and of 10,000 jobs, with a stand-in for the cluster.

    python -m benchmarks.kubernetes --fake [--jobs 1000 10000] [--pack 20]

The stand-in of the tests runs as another process. Its pods begin when all Jobs are there, and end well at
once, so that all jobs are in flight. Each measurement has a process of its own too, so that CPU and peak
memory are the backend's, and those of what drives it: attempts in batches of 500, and `forget` as soon as
a result is told.
"""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from drawbar.backend import Accepted, Attempt, JobStatus
from drawbar.model import JobSpec
from drawbar_kubernetes.backend import KubernetesBackend

FAKE = Path(__file__).resolve().parent.parent / "tests" / "compute" / "kubernetes" / "fake_cluster.py"
HEAD = (
    "| jobs | to a pod | calls | wall time, s | CPU per job, ms | peak memory above that of no jobs, MiB "
    "| of it per job, KiB | ended well | told twice |\n|---|---|---|---|---|---|---|---|---|"
)
_BATCH = 500


class Sink:
    """Counts ends, and has them forgotten, as the driver does."""

    def __init__(self, attempts: dict[str, Attempt]) -> None:
        self.backend: KubernetesBackend
        self.ends: Counter[str] = Counter()
        self.well = 0
        self.done = threading.Event()
        self._attempts = attempts

    def status(self, statuses: Sequence[JobStatus]) -> None:
        ended = [each for each in statuses if each.result is not None]
        self.ends.update(each.tag for each in ended)
        self.well += sum(each.result is not None and each.result.ok for each in ended)
        if ended:
            self.backend.forget([self._attempts[each.tag] for each in ended])
        if len(self.ends) == len(self._attempts):
            self.done.set()

    def trouble(self, message: str) -> None:
        if message:
            print(message, file=sys.stderr)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[str, IO[str]]]:
    """The stand-in's kubeconfig, and what it takes a line from."""
    with subprocess.Popen(
        [sys.executable, str(FAKE), str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.stdin


def row(jobs: int, pack: int) -> str:
    """One measurement, in this process."""
    with (
        tempfile.TemporaryDirectory(prefix="drawbar-bench-") as place,
        cluster(Path(place)) as (kubeconfig, stand_in),
    ):
        volume = {"path": place, "host_path": place}
        values = {"kubeconfig": kubeconfig, "volumes": [volume], "pack": pack, "creations_per_s": 1e6}
        attempts = [_attempt(place, number) for number in range(jobs)]
        sink = Sink({attempt.tag: attempt for attempt in attempts})
        sink.backend = backend = KubernetesBackend(KubernetesBackend.Options.parse(values, where="benchmark"))
        backend.start(sink)
        memory, cpu, began = _peak_mib(), time.process_time(), time.monotonic()
        made = 0
        for start in range(0, jobs, _BATCH):
            parcels = {
                answer.native_id
                for answer in backend.submit(attempts[start : start + _BATCH])
                if isinstance(answer, Accepted)
            }
            made += len(parcels)
        while backend.calls.get("POST", 0) < made:
            time.sleep(0.1)
        print("begin", file=stand_in, flush=True)
        sink.done.wait()
        wall = time.monotonic() - began
        backend.close()
        cpu, memory = time.process_time() - cpu, _peak_mib() - memory
        twice = sum(count > 1 for count in sink.ends.values())
        return (
            f"| {jobs:,} | {pack} | {sum(backend.calls.values()):,} | {wall:.1f} | {1e3 * cpu / jobs:.2f} "
            f"| {memory:.0f} | {1024 * memory / jobs:.1f} | {sink.well:,} | {twice} |"
        )


def rows(counts: Sequence[int], pack: int) -> Iterator[str]:
    """Measurements, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for size in (1, pack):
        for jobs in counts:
            with context.Pool(1) as pool:
                yield pool.apply(row, (jobs, size))


def _attempt(place: str, number: int) -> Attempt:
    spec = JobSpec(
        identity=str(number),
        name=f"job-{number}",
        step="scatter",
        argv=("true",),
        directory=place,
        canonical=None,
        image="localhost/busybox:wf",
    )
    record = f"{place}/records/{number}"
    return Attempt(tag=f"b-{number}", run="benchmark", number=1, record=record, workspace=place, spec=spec)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
