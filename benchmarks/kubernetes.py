"""Trivial jobs on Kubernetes: drawbar's backend with one scatter, also packed, and a plain loop of kubectl.

    python -m benchmarks.kubernetes [--jobs 500] [--pack 20] [--record]
    python -m benchmarks.kubernetes --fake [--jobs 1000 10000] [--pack 20]

The second needs no cluster, and shows what the backend takes for many jobs. The first needs the cluster of
`tests/clusters/kubernetes start`, and the variables that it prints. The backend is driven as drawbar's
driver does it: one batch, events, and `forget` when a result is known.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobSpec, Resources
from drawbar_kubernetes.backend import KubernetesBackend

from benchmarks import kubernetes_scale
from benchmarks.batch import HEAD, Ledger, Outcome

RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "kubernetes-benchmark.md"
IMAGE = "localhost/python:wf"
TITLE = """\
# Kubernetes: {jobs} trivial jobs

`python -m benchmarks.kubernetes`, {date}: drawbar {version}, Kubernetes 1.20.2 of one node on {cores} cores,
which runs the cluster, the jobs and the clients; load average {load:.1f} at the start. Lag is from a job's
own last act to the moment when its result was known.
"""


class Listener:
    """Notes when each end was told, and has it forgotten then, as the driver does."""

    def __init__(self, backend: KubernetesBackend, attempts: dict[str, Attempt]) -> None:
        self.known: dict[str, float] = {}
        self.done = threading.Event()
        self._backend = backend
        self._attempts = attempts

    def status(self, statuses: Sequence[JobStatus]) -> None:
        ended = [each for each in statuses if each.result is not None]
        for each in ended:
            self.known[self._attempts[each.tag].spec.identity] = time.time()
        self._backend.forget([self._attempts[each.tag] for each in ended])
        if len(self.known) == len(self._attempts):
            self.done.set()

    def trouble(self, message: str) -> None:
        print(message)


def scatter(directory: Path, jobs: int, pack: int = 1) -> Outcome:
    """drawbar's backend."""
    ledger = Ledger(directory / "ledger")
    volume = {"path": str(directory), "host_path": str(directory)}
    options = KubernetesBackend.Options.parse({"volumes": [volume], "pack": pack}, where="benchmark")
    backend = KubernetesBackend(options)
    attempts = {}
    for number in range(jobs):
        spec = JobSpec(
            identity=str(number),
            name=f"job-{number}",
            step="scatter",
            argv=("sh", "-c", ledger.script, str(number)),
            directory=str(directory),
            canonical=None,
            image=IMAGE,
            resources=Resources(cpus=0.02),
        )
        attempts[f"b-{number}"] = Attempt(
            tag=f"b-{number}",
            run="benchmark",
            number=1,
            record=f"{directory}/records/{number}",
            workspace=str(directory),
            spec=spec,
        )
    listener = Listener(backend, attempts)
    before, began = _cpu_s(resource.RUSAGE_SELF), time.time()
    backend.start(listener)
    backend.submit(list(attempts.values()))
    listener.done.wait()
    backend.close()
    cpu = _cpu_s(resource.RUSAGE_SELF) - before
    name = "drawbar, one scatter" if pack == 1 else f"drawbar, {pack} to a pod"
    return Outcome(name, jobs, began, ledger.ends(), listener.known, backend.calls, cpu)


def loop(directory: Path, jobs: int) -> Outcome:
    """What one writes at first: `kubectl create` for each job, then a look at all of them every second."""
    ledger = Ledger(directory / "ledger")
    mount = {"name": "data", "mountPath": str(directory)}
    calls = {"kubectl create": 0, "kubectl get": 0, "kubectl delete": 1}
    before, began = _cpu_s(resource.RUSAGE_CHILDREN), time.time()
    for number in range(jobs):
        container = {
            "name": "job",
            "image": IMAGE,
            "command": ["sh", "-c", ledger.script, str(number)],
            "volumeMounts": [mount],
            "resources": {"requests": {"cpu": "20m"}},
        }
        pod = {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "data", "hostPath": {"path": str(directory)}}],
        }
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"loop-{number}", "labels": {"app": "loop"}},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        }
        _kubectl("create", "-f", "-", text=json.dumps(job))
        calls["kubectl create"] += 1
    known: dict[str, float] = {}
    while len(known) < jobs:
        time.sleep(1)
        found = json.loads(_kubectl("get", "jobs", "-l", "app=loop", "-o", "json"))["items"]
        calls["kubectl get"] += 1
        now = time.time()
        for each in found:
            if each["status"].get("conditions"):
                known.setdefault(each["metadata"]["name"].removeprefix("loop-"), now)
    _kubectl("delete", "jobs", "-l", "app=loop", "--wait=false")
    cpu = _cpu_s(resource.RUSAGE_CHILDREN) - before
    return Outcome("a loop of kubectl", jobs, began, ledger.ends(), known, calls, cpu)


def _kubectl(*arguments: str, text: str | None = None) -> str:
    command = ["kubectl", "--kubeconfig", os.environ["KUBE_ADMIN_CONFIG"], "--namespace", "wf", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kubernetes")
    parser.add_argument("--fake", action="store_true", help="with a stand-in for the cluster")
    parser.add_argument("--jobs", type=int, nargs="+", help="how many; with --fake several, one by one")
    parser.add_argument("--pack", type=int, default=20)
    parser.add_argument("--record", action="store_true", help=f"write docs/results/{RECORD.name}")
    options = parser.parse_args()
    if options.fake:
        print(kubernetes_scale.HEAD)
        for line in kubernetes_scale.rows(options.jobs or [1000, 10000], options.pack):
            print(line, flush=True)
        return
    jobs = options.jobs[0] if options.jobs else 500
    title = TITLE.format(
        jobs=jobs,
        date=date.today().isoformat(),
        version=version("drawbar"),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
    )
    lines = [title, HEAD]
    print(title)
    for measure in (scatter, lambda place, jobs: scatter(place, jobs, options.pack), loop):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            lines.append(measure(Path(place), jobs).row)
        print(lines[-1], flush=True)
    if options.record:
        RECORD.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
