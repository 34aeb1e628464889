"""Faults of all kinds while runs go on the real cluster, and what became of their jobs.

    python -m tests.compute.kubernetes.kubernetes_campaign [--repeat 2] [--at-once 4] [--record]

Needs the cluster of `tests/clusters/kubernetes start` for itself. Each run is one of `drawbar run` with a
few jobs, which meets one fault and is resumed until it has finished. The judge is what the jobs write
themselves: each shows every fifth of a second that it lives, and in which pod, and at last that it has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import Home
from tests.compute.kubernetes.stages import POINTS

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "clusters" / "kubernetes"
STRIKE = ROOT / "tests" / "compute" / "strike.py"
RECORD = ROOT / "docs" / "results" / "kubernetes-faults.md"
JOBS = 4
RESUMES = 6
PATIENCE_S = 900
JOB = (
    "i=0; while [ $i -lt 12 ]; do echo $0 $(hostname) $(date +%s.%N) >> life; sleep 0.2; i=$((i+1)); done;"
    " echo $0 $(hostname) ended >> life"
)
SETTINGS = """
[backends.kubernetes]
grace_s = 1
[[backends.kubernetes.volumes]]
path = "{place}"
host_path = "{place}"
[[backends.kubernetes.pod_template.spec.containers]]
name = "job"
resources = {{requests = {{cpu = "20m"}}}}
"""
_api_server = threading.Lock()


@dataclass
class Trial:
    """One run, with what came of it: `pods` that began a job, jobs `lost`, jobs that two pods did."""

    fault: str
    place: Path
    home: Home
    pods: int = 0
    lost: int = 0
    doubled: int = 0
    resumes: int = 0
    wrong: list[str] = field(default_factory=list)

    def start(self, *arguments: str, when: str = "", point: str = "") -> subprocess.Popen[str]:
        program = [str(STRIKE), when, point] if point else ["-P", "-m", "drawbar.cli"]
        return subprocess.Popen(
            [sys.executable, *program, *arguments, "--quiet"],
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *, when: str = "", point: str = "") -> subprocess.Popen[str]:
        """Its jobs are submitted when this returns, or the driver was killed before."""
        with _api_server:
            process = self.start("run", str(self.home.analysis), "--name", "b", when=when, point=point)
            attempts = self.place / "home" / "runs" / "b.1" / "attempts"
            until(lambda: attempts.exists() or process.poll() is not None)
        return process

    def lives(self) -> list[list[str]]:
        life = self.place / "home" / "runs" / "b.1" / "workspace" / "life"
        return [line.split() for line in life.read_text().splitlines()] if life.exists() else []

    def pod(self) -> str:
        """A pod whose job has begun and not ended."""
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            ended = {pod for _, pod, word in self.lives() if word == "ended"}
            if alive := [pod for _, pod, _ in self.lives() if pod not in ended]:
                return alive[-1]
            time.sleep(0.1)
        raise TimeoutError(f"{self.fault}: no job begins")

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Resume until it has finished; what the jobs say of themselves then."""
        told, _ = process.communicate(timeout=PATIENCE_S)
        while process.returncode != 0 and self.resumes < RESUMES:
            self.resumes += 1
            with _api_server:  # a driver does not start while there is none
                process = self.start("resume", "b")
            told, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode != 0:
            self.wrong.append(f"it did not finish: {told[-500:]}")
        self._judge()

    def _judge(self) -> None:
        spans: dict[str, dict[str, list[float]]] = {str(number): {} for number in range(JOBS)}
        ends = dict.fromkeys(spans, 0)
        for number, pod, word in self.lives():
            if word == "ended":
                ends[number] += 1
            else:
                spans[number].setdefault(pod, []).append(float(word))
        for number, pods in spans.items():
            self.pods += len(pods)
            self.lost += ends[number] == 0
            in_order = sorted((min(times), max(times)) for times in pods.values())
            both = any(later[0] < earlier[1] for earlier, later in pairwise(in_order))
            if both or ends[number] > 1:
                self.doubled += 1
                self.wrong.append(f"job {number} ended {ends[number]} times, two at once: {both}")


def driver_killed(point: str, trial: Trial) -> None:
    when, where = POINTS[point]
    process = trial.run(when=when, point=where)
    process.wait(PATIENCE_S)
    if process.returncode != -signal.SIGKILL:
        trial.wrong.append(f"the driver was not killed: {process.communicate()[0][-500:]}")
    trial.finish(process)


def driver_killed_while_jobs_run(trial: Trial) -> None:
    process = trial.run()
    trial.pod()
    process.kill()
    trial.finish(process)


def server_killed(running: bool, trial: Trial) -> None:
    process = trial.run()
    if running:
        trial.pod()
    kill_api_server()
    trial.finish(process)


def server_and_driver_killed(trial: Trial) -> None:
    process = trial.run()
    trial.pod()
    process.kill()
    kill_api_server()
    trial.finish(process)


def struck(strike: Callable[[str], None], trial: Trial) -> None:
    """Somebody does something to the pod of a job that runs."""
    process = trial.run()
    strike(trial.pod())
    trial.finish(process)


def delete_pod(pod: str) -> None:
    kubectl("delete", "pod", pod, "--wait=false", "--ignore-not-found")


def delete_job(pod: str) -> None:
    kubectl("delete", "job", pod.rpartition("-")[0], "--wait=false", "--ignore-not-found")


def evict(pod: str) -> None:
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "wf"}}
    path = f"/api/v1/namespaces/wf/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))


FAULTS: dict[str, Callable[[Trial], None]] = {
    **{f"driver killed {point}": partial(driver_killed, point) for point in POINTS},
    "driver killed while jobs run": driver_killed_while_jobs_run,
    "API server killed and restarted while jobs are submitted": partial(server_killed, False),
    "API server killed and restarted while jobs run": partial(server_killed, True),
    "driver and API server killed while jobs run": server_and_driver_killed,
    "a pod deleted by somebody else": partial(struck, delete_pod),
    "a pod evicted by somebody else": partial(struck, evict),
    "a Job deleted by somebody else": partial(struck, delete_job),
}


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError
        time.sleep(0.05)


def script(*arguments: str) -> str:
    return subprocess.run(
        [SCRIPT, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S
    ).stdout.strip()


def kill_api_server() -> None:
    """All runs meet it; it is back after some seconds."""
    with _api_server:
        os.kill(int(script("pid", "kube-apiserver")), signal.SIGKILL)
        time.sleep(5)
        script("start")


def kubectl(*arguments: str, text: str | None = None) -> None:
    """Called again while another trial has killed the server; what is not there any more is no error."""
    command = ["kubectl", "--kubeconfig", os.environ["KUBE_ADMIN_CONFIG"], "--namespace", "wf", *arguments]

    def done() -> bool:
        said = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        return said.returncode == 0 or "(NotFound)" in said.stderr

    until(done)


def trial(fault: str) -> Trial:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="drawbar-faults-") as name:
        place = Path(name)
        home = Home(place, jobs=JOBS, script=JOB, image="localhost/python:wf")
        table = place / "drawbar.toml"
        table.write_text(f'backend = "kubernetes"\n{table.read_text()}{SETTINGS.format(place=place)}')
        made = Trial(fault, place, home)
        try:
            FAULTS[fault](made)
        except Exception as error:
            made.wrong.append(repr(error))
        print(
            f"{time.strftime('%T')} {fault}: {'; '.join(made.wrong) or 'well'}", file=sys.stderr, flush=True
        )
        return made


def lines(trials: list[Trial], seconds: float) -> Iterator[str]:
    yield "# Kubernetes: faults"
    yield ""
    yield (
        f"`python -m tests.compute.kubernetes.kubernetes_campaign`, {date.today().isoformat()}: drawbar "
        f"{version('drawbar')}, Kubernetes 1.20.2 of one node on {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[1]:.0f}, {seconds:.0f} s. Each run has {JOBS} jobs and meets a fault of its own; "
        "several runs go on at once, so that an API server that is killed is killed for all of them."
    )
    yield ""
    yield "| fault | runs | finished well | resumed | jobs | pods that began one | lost | doubled |"
    yield "|---|---|---|---|---|---|---|---|"
    for fault in [*FAULTS, "all"]:
        mine = [each for each in trials if fault in (each.fault, "all")]
        counts = (
            len(mine),
            sum(not each.wrong for each in mine),
            sum(each.resumes for each in mine),
            JOBS * len(mine),
            sum(each.pods for each in mine),
            sum(each.lost for each in mine),
            sum(each.doubled for each in mine),
        )
        yield f"| {fault} | {' | '.join(map(str, counts))} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compute.kubernetes.kubernetes_campaign")
    parser.add_argument("--repeat", type=int, default=2, help="how often each fault is met")
    parser.add_argument("--at-once", type=int, default=4, help="how many runs go on at once")
    parser.add_argument("--only", choices=FAULTS, nargs="+", default=list(FAULTS))
    parser.add_argument("--record", action="store_true", help=f"write docs/results/{RECORD.name}")
    options = parser.parse_args()
    began = time.monotonic()
    with ThreadPoolExecutor(options.at_once) as pool:
        trials = list(pool.map(trial, options.only * options.repeat))
    kubectl("delete", "jobs", "-l", "app.kubernetes.io/managed-by=drawbar", "--wait=false")
    text = "\n".join(lines(trials, time.monotonic() - began)) + "\n"
    print(text)
    if options.record:
        RECORD.write_text(text)
    wrong = [f"{each.fault}: {word}" for each in trials for word in each.wrong]
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
