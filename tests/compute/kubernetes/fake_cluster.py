"""A small stand-in for a cluster: an API server for Jobs and pods, a controller, and a node with processes.

It is kept honest by the tests that run on it and on a real cluster alike, and does what those cannot:
newer features, answers that are lost, a server that is busy, watches that break off or have expired.
What a job costs it does not depend on how many there are.

As a program it is a cluster of its own process. It prints its kubeconfig; after a line from its standard
input pods begin, and end well at once; and it ends with its standard input:

    python fake_cluster.py DIRECTORY
"""

from __future__ import annotations

import copy
import itertools
import json
import queue
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import fake_node
from fake_server import handler, refused

KEPT = 20_000
"""How many events of a kind are kept; a watch that is further behind has expired."""
NEWER = ("completionMode", "suspend", "podFailurePolicy")
"""Fields of a Job that a server of version 1.20 leaves out."""

NO_RIGHT = (
    'jobs.batch is forbidden: User "fake" cannot create resource "jobs" in API group "batch" in the '
    'namespace "wf"'
)


class FakeCluster:
    """Start it with `with`. The attributes are switches; the methods do what somebody else would do."""

    def __init__(self, directory: Path, *, version: tuple[int, int] = (1, 30), slots: int = 8) -> None:
        self.version = version
        self.images = {"localhost/busybox:wf"}
        self.schedulable = True
        self.pods_wanted = True
        self.instant = False  # pods end well at once, without a process
        self.quota = 0  # how many more Jobs are refused because a quota is used up
        self.busy = 0  # how many more calls are answered with 429
        self.deaf = 0  # how many creations are carried out and not answered
        self.refusing = 0  # the status with which creations are refused: 401 or 403, as while a server starts
        self.forbidden: set[str] = set()  # as "list pods": what the account may not do but create
        self.left_out: tuple[str, ...] = ()  # fields of a Job that it does not know
        self.moved = ("", "")  # a directory, and where containers are that believe to see it
        self.unfit = False  # a pod's configuration names what is not there
        self.hasty = False  # a pod that is being deleted has a successor at once, as in version 1.20
        self.queued = False  # Jobs with a queue wait until `admit`
        self.tls: ssl.SSLContext | None = None  # it is reached by https
        self.calls: list[tuple[str, str]] = []
        self.tokens: list[str] = []  # what each call proved itself with
        self._lock = threading.Condition(threading.RLock())
        self._objects: dict[str, dict[str, dict]] = {
            "jobs": {},
            "pods": {},
            "events": {},
            "resourcequotas": {},
        }
        self._pods_of: dict[str, dict[str, dict]] = {}
        self._log: dict[str, deque[tuple[int, dict[str, str], bytes]]] = {
            kind: deque() for kind in self._objects
        }
        self._version = 100
        self._forgotten = dict.fromkeys(self._objects, 0)  # the last version that a watch cannot begin before
        self._watches = 0  # raised to end all that are open
        self._closing = False
        self.awake = threading.Event()  # while it is not set, no pod begins
        self.awake.set()
        self.telling = threading.Event()  # while it is not set, the node tells of no end
        self.telling.set()
        self._work: queue.Queue[str | None] = queue.Queue()
        self._processes: dict[str, subprocess.Popen] = {}
        self._slots = slots
        self._server: ThreadingHTTPServer | None = None
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.kubeconfig = directory / "kubeconfig"

    def __enter__(self) -> FakeCluster:
        self.serve()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "fake", "user": {"token": "fake"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "wf"}}],
        }
        self.kubeconfig.write_text(json.dumps(config))
        self._threads += [threading.Thread(target=self._node, daemon=True) for _ in range(self._slots)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.awake.set()
        self.telling.set()
        for _ in range(self._slots):
            self._work.put(None)
        for process in list(self._processes.values()):
            fake_node.send(process, signal.SIGKILL)
        for thread in self._threads:
            thread.join(10)
        self.unserve()

    # what somebody else would do

    def serve(self) -> None:
        """The API server runs."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Clients go away."""

        self._server = Server(("127.0.0.1", self.port), handler(self))
        self.port = self._server.server_address[1]
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def unserve(self) -> None:
        """The API server is gone; pods go on."""
        if self._server is not None:
            self.cut_watches()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def cut_watches(self) -> None:
        """Every watch breaks off."""
        with self._lock:
            self._watches += 1
            self._lock.notify_all()

    def expire(self) -> None:
        """The server forgets all versions before this one, and so where the watches were."""
        with self._lock:
            self._version += 1000
            self._forgotten = dict.fromkeys(self._objects, self._version)
        self.cut_watches()

    def objects(self, kind: str) -> list[dict]:
        """All objects of a kind."""
        with self._lock:
            return copy.deepcopy(list(self._objects[kind].values()))

    def count(self, kind: str) -> int:
        """How many objects of a kind there are."""
        return len(self._objects[kind])

    def find(self, kind: str, name: str) -> bytes | None:
        """An object as JSON."""
        with self._lock:
            found = self._objects[kind].get(name)
            return None if found is None else json.dumps(found).encode()

    def delete_pod(self, name: str) -> None:
        """Somebody deletes a pod."""
        with self._lock:
            self._delete_pod(name)

    def delete_job(self, name: str) -> None:
        """Somebody deletes a Job, and in the background its pods."""
        with self._lock:
            self._delete_job(name)

    def evict(self, name: str) -> None:
        """The node is short of something, and fails the pod."""
        with self._lock:
            pod = self._objects["pods"][name]
            pod["status"]["conditions"].append(
                {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
            )
            pod["status"] |= {
                "phase": "Failed",
                "reason": "Evicted",
                "message": "The node was low on memory.",
            }
            pod["status"].pop("containerStatuses", None)
            process = self._processes.get(name)
            self._changed("pods", "MODIFIED", pod)
            self._count(pod)
        if process is not None:
            fake_node.send(process, signal.SIGKILL)

    def lose_node(self, name: str) -> None:
        """A pod's node does not answer any more."""
        with self._lock:
            pod = self._objects["pods"][name]
            pod["status"]["conditions"].append({"type": "Ready", "status": "Unknown"})
            self._changed("pods", "MODIFIED", pod)

    def show(self, name: str, waiting: str) -> None:
        """A pod's container waits for something, in its node's word."""
        with self._lock:
            pod = self._objects["pods"][name]
            state = {"waiting": {"reason": waiting}}
            if waiting != "ContainerCreating":
                state["waiting"]["message"] = "context deadline exceeded"
            (container,) = pod["spec"]["containers"]
            pod["status"]["containerStatuses"] = [{"name": container["name"], "state": state}]
            self._changed("pods", "MODIFIED", pod)

    def warn(self, job: str, message: str) -> None:
        """An event tells why a Job has no pod."""
        with self._lock:
            about = {"metadata": {"name": f"{job}.1"}, "involvedObject": {"kind": "Job", "name": job}}
            self._objects["events"][job] = {**about, "type": "Warning", "message": message}

    def admit(self) -> None:
        """Kueue lets the waiting Jobs begin."""
        with self._lock:
            for job in self._objects["jobs"].values():
                if job["spec"].get("suspend"):
                    job["spec"]["suspend"] = False
                    job["status"]["conditions"] = [{"type": "Suspended", "status": "False"}]
                    self._changed("jobs", "MODIFIED", job)
                    self._sync(job)

    def add_quota(self, quota: dict) -> None:
        """The namespace has a quota."""
        with self._lock:
            self._objects["resourcequotas"][quota["metadata"]["name"]] = quota

    def wake(self) -> None:
        """What was not schedulable, or had no image, is tried again."""
        with self._lock:
            for pod in self._objects["pods"].values():
                if pod["status"]["phase"] == "Pending":
                    self._work.put(pod["metadata"]["name"])

    # the API server

    def create(self, job: dict, namespace: str) -> tuple[int, dict | bytes]:
        """POST of a Job."""
        with self._lock:
            name = job["metadata"]["name"]
            if name in self._objects["jobs"]:
                return 409, refused(f'jobs.batch "{name}" already exists')
            if self.refusing:
                return self.refusing, refused("Unauthorized" if self.refusing == 401 else NO_RIGHT)
            if self.quota > 0:
                self.quota -= 1
                return 403, refused(
                    f'jobs.batch "{name}" is forbidden: exceeded quota: jobs, used: 1, limited: 1'
                )
            for field in (*self.left_out, *(NEWER if self.version < (1, 24) else ())):
                job["spec"].pop(field, None)
            if self.queued and "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {}):
                job["spec"]["suspend"] = True
            job["metadata"] |= {
                "uid": secrets.token_hex(8),
                "namespace": namespace,
                "creationTimestamp": _now(),
            }
            job["status"] = {}
            if job["spec"].get("suspend"):
                job["status"]["conditions"] = [{"type": "Suspended", "status": "True"}]
            self._objects["jobs"][name] = job
            self._changed("jobs", "ADDED", job)
            self._sync(job)
            return 201, json.dumps(job).encode()

    def select(self, kind: str, selector: str) -> list[dict]:
        """Objects with these labels, in order."""
        wanted = _wanted(selector)
        with self._lock:
            found = self._objects[kind]
            if (names := wanted.get("drawbar.job")) is not None:  # so are the Jobs named
                found = (
                    {name: each for name in names if (each := found.get(name))}
                    if kind == "jobs"
                    else {name: each for job in names for name, each in self._pods_of.get(job, {}).items()}
                )
            return [each for _, each in sorted(found.items()) if _matches(_labels(each), wanted)]

    def remove(self, selector: str) -> None:
        """DELETE of a collection of Jobs."""
        with self._lock:
            for job in self.select("jobs", selector):
                self._delete_job(job["metadata"]["name"])

    def follow(self, kind: str, since: int, until: float, selector: str) -> Iterator[bytes]:
        """Events after a version, as JSON; ends with time, or when watches are cut."""
        wanted, mine = _wanted(selector), self._watches
        while time.monotonic() < until and self._watches == mine and not self._closing:
            with self._lock:
                expired, fresh = since < self._forgotten[kind], self._newer(kind, since)
                if not (expired or fresh):
                    self._lock.wait(max(0.0, min(1.0, until - time.monotonic())))
            if expired:
                error = {"code": 410, "message": "too old resource version"}
                yield json.dumps({"type": "ERROR", "object": error}).encode()
                return
            for version, labels, event in fresh:
                since = version
                if _matches(labels, wanted):
                    yield event
        bookmark = {"metadata": {"resourceVersion": str(since)}}
        yield json.dumps({"type": "BOOKMARK", "object": bookmark}).encode()

    def _newer(self, kind: str, since: int) -> list[tuple[int, dict[str, str], bytes]]:
        newer = itertools.takewhile(lambda entry: entry[0] > since, reversed(self._log[kind]))
        return list(newer)[::-1]

    def _changed(self, kind: str, event: str, found: dict) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        data = json.dumps({"type": event, "object": found}).encode()
        log = self._log[kind]
        log.append((self._version, _labels(found), data))
        if len(log) > KEPT:
            self._forgotten[kind] = log.popleft()[0]
        self._lock.notify_all()

    # the Job controller

    def _sync(self, job: dict) -> None:
        if job["spec"].get("suspend") or not self.pods_wanted:
            return
        template = job["spec"]["template"]
        owner = job["metadata"]["name"]
        indexed = job["spec"].get("completionMode") == "Indexed"
        for index in range(job["spec"].get("completions", 1)):
            name = f"{owner}{f'-{index}' if indexed else ''}-{secrets.token_hex(3)[:5]}"
            metadata = {**template["metadata"], "name": name, "creationTimestamp": _now()}
            metadata["labels"] = {**metadata.get("labels", {}), "job-name": owner}
            if indexed:
                place = {"batch.kubernetes.io/job-completion-index": str(index)}
                metadata["annotations"] = {**metadata["annotations"], **place}
            pod = {
                "metadata": metadata,
                "spec": {**template["spec"]},
                "status": {"phase": "Pending", "conditions": []},
            }
            self._objects["pods"][name] = self._pods_of.setdefault(owner, {})[name] = pod
            self._changed("pods", "ADDED", pod)
            self._work.put(name)

    def _count(self, pod: dict) -> None:
        """A pod has ended: so may its Job."""
        job = self._objects["jobs"].get(pod["metadata"]["labels"]["job-name"])
        if job is None or job["status"].get("conditions"):
            return
        pods = self._pods_of[job["metadata"]["name"]]
        phases = [each["status"]["phase"] for each in pods.values()]
        if phases.count("Failed") > job["spec"].get("backoffLimit", 6):
            condition = {
                "type": "Failed",
                "reason": "BackoffLimitExceeded",
                "message": "Job has reached its limit",
            }
        elif phases.count("Succeeded") >= job["spec"].get("completions", 1):
            condition = {"type": "Complete"}
        else:
            return
        job["status"]["conditions"] = [{**condition, "status": "True"}]
        self._changed("jobs", "MODIFIED", job)
        for each in [each for each in pods.values() if each["status"]["phase"] in ("Pending", "Running")]:
            self._delete_pod(each["metadata"]["name"])

    def _delete_job(self, name: str) -> None:
        job = self._objects["jobs"].pop(name)
        self._changed("jobs", "DELETED", job)
        for pod in list(self._pods_of.get(name, ())):
            self._delete_pod(pod)

    def _delete_pod(self, name: str) -> None:
        pod = self._objects["pods"][name]
        if "deletionTimestamp" in pod["metadata"]:
            return
        pod["metadata"]["deletionTimestamp"] = _now()
        self._changed("pods", "MODIFIED", pod)
        job = self._objects["jobs"].get(_labels(pod)["job-name"])
        if self.hasty and job is not None and not job["status"].get("conditions"):
            self._sync(job)
        process = self._processes.get(name)
        if process is None:
            self._forget_pod(pod)
            return
        process.send_signal(signal.SIGTERM)
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        threading.Thread(target=fake_node.kill_after, args=(process, grace), daemon=True).start()

    def _forget_pod(self, pod: dict) -> None:
        if self._objects["pods"].pop(pod["metadata"]["name"], None) is not None:
            self._changed("pods", "DELETED", pod)
            owner = _labels(pod)["job-name"]
            del self._pods_of[owner][pod["metadata"]["name"]]
            if not self._pods_of[owner]:
                del self._pods_of[owner]
            job = self._objects["jobs"].get(owner)
            ended = (
                self.hasty
                or job is None
                or job["status"].get("conditions")
                or pod["status"]["phase"] in ("Failed", "Succeeded")
            )
            if not ended:
                self._sync(job)

    # the node

    def _node(self) -> None:
        while (name := self._work.get()) is not None:
            self.awake.wait()
            with self._lock:
                pod = self._objects["pods"].get(name)
                if pod is None or pod["status"]["phase"] != "Pending" or not self._begins(pod):
                    continue
                process = None if self.instant else fake_node.begin(pod, *self.moved)
                if process is not None:
                    self._processes[name] = process
                self._changed("pods", "MODIFIED", pod)
            code, said = (fake_node.pretend(pod), "") if process is None else (process.wait(), "")
            if process is not None:
                fake_node.send(process, signal.SIGKILL)  # nothing of a container outlives its first process
                said = fake_node.last_words(process)
            self.telling.wait()
            with self._lock:
                self._processes.pop(name, None)
                if pod["status"]["phase"] == "Running":
                    self._ends(pod, code if code >= 0 else 128 - code, said)
                if "deletionTimestamp" in pod["metadata"]:
                    self._forget_pod(pod)

    def _begins(self, pod: dict) -> bool:
        """Whether a pod can begin; its status says why not."""
        status = pod["status"]
        if not self.schedulable:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            status["conditions"] = [
                {**condition, "message": "0/1 nodes are available: 1 Insufficient memory."}
            ]
            self._changed("pods", "MODIFIED", pod)
            return False
        pod["spec"]["nodeName"] = "fake-node"
        status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        container = pod["spec"]["containers"][0]
        waiting = {}
        if container["image"] not in self.images:
            waiting = {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{container["image"]}"',
            }
        elif self.unfit:
            waiting = {"reason": "CreateContainerConfigError", "message": 'secret "password" not found'}
        if waiting:
            status["containerStatuses"] = [{"name": container["name"], "state": {"waiting": waiting}}]
            self._changed("pods", "MODIFIED", pod)
            return False
        running = {"name": container["name"], "state": {"running": {"startedAt": _now()}}}
        status |= {"phase": "Running", "containerStatuses": [running]}
        return True

    def _ends(self, pod: dict, code: int, said: str) -> None:
        (container,) = pod["status"]["containerStatuses"]
        started = container["state"]["running"]["startedAt"]
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": _now()}
        if code:
            ended["message"] = said
        container["state"] = {"terminated": ended}
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        self._changed("pods", "MODIFIED", pod)
        self._count(pod)


def _wanted(selector: str) -> dict[str, set[str]]:
    """The values that labels may have."""
    found = re.findall(r"([\w./-]+)(?:=([\w.-]+)| in \(([^)]*)\))", selector)
    return {key: set(values.split(",")) if values else {value} for key, value, values in found}


def _matches(labels: dict[str, str], wanted: dict[str, set[str]]) -> bool:
    return all(labels.get(key) in values for key, values in wanted.items())


def _labels(found: dict) -> dict[str, str]:
    return found["metadata"].get("labels") or {}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    with FakeCluster(Path(sys.argv[1])) as cluster:
        cluster.instant = True
        cluster.awake.clear()
        print(cluster.kubeconfig, flush=True)
        if sys.stdin.readline():
            cluster.awake.set()
            sys.stdin.read()


if __name__ == "__main__":
    main()
