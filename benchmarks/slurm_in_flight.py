"""What the Slurm backend takes of a CPU while 1,000 and 10,000 jobs are in flight, with a stand-in for Slurm.

    python -m benchmarks.slurm_in_flight [--jobs 1000 10000]

The stand-in answers at once, and in this process; jobs end when their records are written. So what is
measured is the backend's own: writing jobs down and submitting them, one question for all of them,
and seeing them end, each by itself.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from drawbar.backend import Attempt, JobStatus
from drawbar.batchcalls import Done
from drawbar.model import JobSpec
from drawbar_slurm.backend import SlurmBackend

END = "exit=0\nstarted=1\nfinished=2\nhost=n1\n0m0.0s 0m0.0s\n0m0.0s 0m0.0s\n"


class Sink:
    ended = 0

    def status(self, statuses: Sequence[JobStatus]) -> None:
        self.ended += sum(status.result is not None for status in statuses)

    def trouble(self, message: str) -> None:
        assert not message, message


class Slurm:
    """Takes every array, and says that all of its tasks run."""

    def __init__(self) -> None:
        self.calls = 0
        self._arrays: list[tuple[str, int]] = []

    def run(self, name: str, *arguments: str, **_: object) -> Done:
        self.calls += 1
        out = ""
        if name == "scontrol":
            out = "MaxArraySize = 1001\n"
        elif name == "sbatch":
            options = dict(each.split("=", 1) for each in arguments if each.startswith("--") and "=" in each)
            self._arrays.append((options["--job-name"], int(options["--array"].partition("-")[2])))
            out = f"{len(self._arrays)}\n"
        elif name == "squeue":
            out = "".join(
                f"{job}|{task}|{job}{task}|RUNNING|None|0|0|n1|{tag}|\n"
                for job, (tag, tasks) in enumerate(self._arrays, 1)
                for task in range(1, tasks + 1)
            )
        return Done(code=0, out=out, err="")


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def row(count: int) -> str:
    with tempfile.TemporaryDirectory(prefix="drawbar-bench-") as directory:
        backend = SlurmBackend(SlurmBackend.Options.parse({"calls_per_minute": 6000.0}, where="benchmark"))
        slurm, sink = Slurm(), Sink()
        backend.commands = slurm  # type: ignore[assignment]
        backend._events = sink  # it is not started, so that nothing happens but what is measured
        attempts = []
        for number in range(count):
            spec = JobSpec(
                identity=str(number),
                name="job",
                step="step",
                argv=("true",),
                directory=directory,
                canonical=None,
            )
            tag = f"db-{secrets.token_hex(16)}"
            record = f"{directory}/{tag}"
            attempts.append(
                Attempt(tag=tag, run="run", number=1, record=record, workspace=directory, spec=spec)
            )
        submit = cpu_s(lambda: backend.submit(attempts))
        question = cpu_s(backend._jobs.ask)
        for attempt in attempts:
            Path(attempt.record, "end").write_text(END)
            place = backend._jobs.get(attempt.tag).place  # type: ignore[union-attr]
            Path(place.directory, "notices", str(place.index)).touch()
        end = cpu_s(backend._jobs.look)
        assert sink.ended == count
    return (
        f"| {count:,} | {1e3 * submit / count:.2f} | {1e6 * question / count:.0f} | {1e3 * end / count:.2f} "
        f"| {slurm.calls} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=[1000, 10000])
    print("| jobs | submit, ms per job | one question, us per job | ends, ms per job | calls |")
    print("|---|---|---|---|---|")
    for count in parser.parse_args().jobs:
        print(row(count), flush=True)


if __name__ == "__main__":
    main()
