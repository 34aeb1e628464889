"""Trivial jobs on Kubernetes: one scatter of drawbar, also packed, and a plain loop of kubectl.

    python -m benchmarks.kubernetes --audit FILE [--jobs 500] [--pack 20] [--only scatter packed loop]
    python -m benchmarks.kubernetes --fake [--jobs 1000 10000] [--pack 20]

The first is `drawbar run`, on the cluster of `KUBE_AUDIT=FILE tests/clusters/kubernetes start`, with the
variables that its `env` prints; calls are counted by what the API server writes into that file. The second
needs no cluster, and shows what the backend takes for many jobs. The results of both are put together in
docs/results/kubernetes-benchmark.md by hand, since a machine is seldom quiet for all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import batch, kubernetes_scale
from benchmarks.batch import HEAD, Ledger, Outcome

IMAGE = "localhost/python:wf"


class Calls:
    """What the API server was asked by programs whose user agent begins like this, by verb and kind."""

    def __init__(self, audit: Path, agent: str) -> None:
        self._audit = audit
        self._agent = agent
        self._start = audit.stat().st_size

    def counted(self) -> dict[str, int]:
        """The calls since this object was made."""
        with self._audit.open("rb") as lines:
            lines.seek(self._start)
            events = [json.loads(line) for line in lines]
        return Counter(
            f"{event['verb']} {event.get('objectRef', {}).get('resource', 'discovery')}"
            for event in events
            if event.get("userAgent", "").startswith(self._agent)
        )


class Inside(Ledger):
    """In the run's workspace, which is all that its pods see; the first job makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path


def scatter(directory: Path, jobs: int, audit: Path, pack: int = 1) -> Outcome:
    """drawbar, with its defaults but for what jobs ask for, so that as many run at once as the loop's."""
    ledger, calls = Inside(directory / "home/runs/b.1/workspace/ledger"), Calls(audit, "drawbar")
    settings = f"""\
pack = {pack}
[[backends.kubernetes.volumes]]
path = "{directory}"
host_path = "{directory}"
[[backends.kubernetes.pod_template.spec.containers]]
name = "job"
resources = {{requests = {{cpu = "20m"}}}}
"""
    outcome = batch.drawbar(directory, jobs, "kubernetes", settings, ledger, image=IMAGE)
    name = outcome.name if pack == 1 else f"{outcome.name}, {pack} to a pod"
    return replace(outcome, name=name, calls=calls.counted())


def loop(directory: Path, jobs: int, audit: Path) -> Outcome:
    """What one writes at first: `kubectl create` for each job, then a look at all of them every second."""
    ledger, calls = Ledger(directory / "ledger"), Calls(audit, "kubectl")
    mount = {"name": "data", "mountPath": str(directory)}
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
    known: dict[str, float] = {}
    while len(known) < jobs:
        time.sleep(1)
        found = json.loads(_kubectl("get", "jobs", "-l", "app=loop", "-o", "json"))["items"]
        now = time.time()
        for each in found:
            if each["status"].get("conditions"):
                known.setdefault(each["metadata"]["name"].removeprefix("loop-"), now)
    _kubectl("delete", "jobs", "-l", "app=loop", "--wait=false")
    cpu = _cpu_s(resource.RUSAGE_CHILDREN) - before
    return Outcome("a loop of kubectl", jobs, began, ledger.ends(), known, calls.counted(), cpu)


def _kubectl(*arguments: str, text: str | None = None) -> str:
    command = ["kubectl", "--kubeconfig", os.environ["KUBE_ADMIN_CONFIG"], "--namespace", "wf", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


MEASURES: dict[str, Callable[[Path, int, argparse.Namespace], Outcome]] = {
    "scatter": lambda place, jobs, asked: scatter(place, jobs, asked.audit),
    "packed": lambda place, jobs, asked: scatter(place, jobs, asked.audit, asked.pack),
    "loop": lambda place, jobs, asked: loop(place, jobs, asked.audit),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kubernetes")
    parser.add_argument("--fake", action="store_true", help="with a stand-in for the cluster")
    parser.add_argument("--jobs", type=int, nargs="+", help="how many; with --fake several, one by one")
    parser.add_argument("--pack", type=int, default=20)
    parser.add_argument("--audit", type=Path, help="the file that the cluster was started with as KUBE_AUDIT")
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES))
    options = parser.parse_args()
    if options.fake:
        print(kubernetes_scale.HEAD)
        for line in kubernetes_scale.rows(options.jobs or [1000, 10000], options.pack):
            print(line, flush=True)
        return
    if options.audit is None:
        parser.error("--audit is missing, or --fake")
    jobs = options.jobs[0] if options.jobs else 500
    print(HEAD)
    for name in options.only:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            print(MEASURES[name](Path(place), jobs, options).row, flush=True)


if __name__ == "__main__":
    main()
