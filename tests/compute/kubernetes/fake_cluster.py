"""A small stand-in for a cluster: an API server for Jobs and pods, a controller, and a node with processes.

It is kept honest by the tests that run on it and on a real cluster alike, and does what those cannot:
newer features, answers that are lost, a server that is busy, watches that break off or have expired.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NEWER = ("completionMode", "suspend", "podFailurePolicy")
"""Fields of a Job that a server of version 1.20 leaves out."""
_PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?")


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
        self.forbidden: set[str] = set()
        self.left_out: tuple[str, ...] = ()  # fields of a Job that it does not know
        self.moved = ("", "")  # a directory, and where containers are that believe to see it
        self.queued = False  # Jobs with a queue wait until `admit`
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Condition(threading.RLock())
        self._objects: dict[str, dict[str, dict]] = {
            "jobs": {},
            "pods": {},
            "events": {},
            "resourcequotas": {},
        }
        self._log: dict[str, list[tuple[int, str, dict]]] = {kind: [] for kind in self._objects}
        self._version = 100
        self._oldest = 0
        self._watches = 0  # raised to end all that are open
        self._closing = False
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
        for _ in range(self._slots):
            self._work.put(None)
        for process in list(self._processes.values()):
            _signal(process, signal.SIGKILL)
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

        self._server = Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
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
            self._oldest = self._version
        self.cut_watches()

    def objects(self, kind: str) -> list[dict]:
        """All objects of a kind."""
        with self._lock:
            return copy.deepcopy(list(self._objects[kind].values()))

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
            _signal(process, signal.SIGKILL)

    def lose_node(self, name: str) -> None:
        """A pod's node does not answer any more."""
        with self._lock:
            pod = self._objects["pods"][name]
            pod["status"]["conditions"].append({"type": "Ready", "status": "Unknown"})
            self._changed("pods", "MODIFIED", pod)

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

    def create(self, job: dict, namespace: str) -> tuple[int, dict]:
        """POST of a Job."""
        with self._lock:
            name = job["metadata"]["name"]
            if name in self._objects["jobs"]:
                return 409, _refused(f'jobs.batch "{name}" already exists')
            if self.quota > 0:
                self.quota -= 1
                return 403, _refused(
                    f'jobs.batch "{name}" is forbidden: exceeded quota: jobs, used: 1, limited: 1'
                )
            job = copy.deepcopy(job)
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
            return 201, copy.deepcopy(job)

    def select(self, kind: str, selector: str) -> list[dict]:
        """Objects with these labels, in order."""
        with self._lock:
            return [each for _, each in sorted(self._objects[kind].items()) if _matches(each, selector)]

    def remove(self, selector: str) -> None:
        """DELETE of a collection of Jobs."""
        with self._lock:
            for job in self.select("jobs", selector):
                self._delete_job(job["metadata"]["name"])

    def follow(self, kind: str, since: int, until: float, selector: str):
        """Events after a version; ends with time, or when watches are cut."""
        with self._lock:
            mine = self._watches
            if since < self._oldest:
                yield {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
                return
            while time.monotonic() < until and self._watches == mine and not self._closing:
                log = self._log[kind]
                fresh = []
                for entry in reversed(log):
                    if entry[0] <= since:
                        break
                    fresh.append(entry)
                for version, event, found in reversed(fresh):
                    since = version
                    if _matches(found, selector):
                        yield {"type": event, "object": found}
                if not fresh:
                    self._lock.wait(max(0.0, min(1.0, until - time.monotonic())))
            yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._version)}}}

    def _changed(self, kind: str, event: str, found: dict) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        self._log[kind].append((self._version, event, copy.deepcopy(found)))
        self._lock.notify_all()

    # the Job controller

    def _sync(self, job: dict) -> None:
        if job["spec"].get("suspend") or not self.pods_wanted:
            return
        indexed = job["spec"].get("completionMode") == "Indexed"
        for index in range(job["spec"].get("completions", 1)):
            name = f"{job['metadata']['name']}{f'-{index}' if indexed else ''}-{secrets.token_hex(3)[:5]}"
            template = copy.deepcopy(job["spec"]["template"])
            metadata = {**template["metadata"], "name": name, "creationTimestamp": _now()}
            metadata["labels"] = {**metadata.get("labels", {}), "job-name": job["metadata"]["name"]}
            if indexed:
                metadata["annotations"]["batch.kubernetes.io/job-completion-index"] = str(index)
            pod = {
                "metadata": metadata,
                "spec": template["spec"],
                "status": {"phase": "Pending", "conditions": []},
            }
            self._objects["pods"][name] = pod
            self._changed("pods", "ADDED", pod)
            self._work.put(name)

    def _count(self, pod: dict) -> None:
        """A pod has ended: so may its Job."""
        job = self._objects["jobs"].get(pod["metadata"]["labels"]["job-name"])
        if job is None or job["status"].get("conditions"):
            return
        pods = self.select("pods", f"job-name={job['metadata']['name']}")
        phases = [each["status"]["phase"] for each in pods]
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

    def _delete_job(self, name: str) -> None:
        job = self._objects["jobs"].pop(name)
        self._changed("jobs", "DELETED", job)
        for pod in self.select("pods", f"job-name={name}"):
            self._delete_pod(pod["metadata"]["name"])

    def _delete_pod(self, name: str) -> None:
        pod = self._objects["pods"][name]
        if "deletionTimestamp" in pod["metadata"]:
            return
        pod["metadata"]["deletionTimestamp"] = _now()
        self._changed("pods", "MODIFIED", pod)
        process = self._processes.get(name)
        if process is None:
            self._forget_pod(pod)
            return
        process.send_signal(signal.SIGTERM)
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        threading.Thread(target=_kill_after, args=(process, grace), daemon=True).start()

    def _forget_pod(self, pod: dict) -> None:
        if self._objects["pods"].pop(pod["metadata"]["name"], None) is not None:
            self._changed("pods", "DELETED", pod)
            job = self._objects["jobs"].get(pod["metadata"]["labels"]["job-name"])
            ended = (
                job is None
                or job["status"].get("conditions")
                or pod["status"]["phase"] in ("Failed", "Succeeded")
            )
            if not ended:
                self._sync(job)

    # the node

    def _node(self) -> None:
        while (name := self._work.get()) is not None:
            with self._lock:
                pod = self._objects["pods"].get(name)
                if pod is None or pod["status"]["phase"] != "Pending" or not self._begins(pod):
                    continue
                process = None if self.instant else _process(pod, *self.moved)
                if process is not None:
                    self._processes[name] = process
                self._changed("pods", "MODIFIED", pod)
            code = _pretend(pod) if process is None else process.wait()
            if process is not None:
                _signal(process, signal.SIGKILL)  # nothing of a container outlives its first process
            with self._lock:
                self._processes.pop(name, None)
                if pod["status"]["phase"] == "Running":
                    self._ends(pod, code if code >= 0 else 128 - code)
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
        if container["image"] not in self.images:
            waiting = {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{container["image"]}"',
            }
            status["containerStatuses"] = [{"name": container["name"], "state": {"waiting": waiting}}]
            self._changed("pods", "MODIFIED", pod)
            return False
        running = {"name": container["name"], "state": {"running": {"startedAt": _now()}}}
        status |= {"phase": "Running", "containerStatuses": [running]}
        return True

    def _ends(self, pod: dict, code: int) -> None:
        (container,) = pod["status"]["containerStatuses"]
        started = container["state"]["running"]["startedAt"]
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": _now()}
        container["state"] = {"terminated": ended}
        pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        self._changed("pods", "MODIFIED", pod)
        self._count(pod)


def _handler(cluster: FakeCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def handle_any(self) -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            cluster.calls.append(("WATCH" if "watch" in query else self.command, address.path))
            if cluster.busy > 0:
                cluster.busy -= 1
                self.answer(429, _refused("too many requests"), {"Retry-After": "1"})
                return
            if address.path == "/version":
                self.answer(200, {"major": str(cluster.version[0]), "minor": str(cluster.version[1])})
                return
            if address.path.endswith("selfsubjectaccessreviews"):
                wish = body["spec"]["resourceAttributes"]
                allowed = f"{wish['verb']} {wish['resource']}" not in cluster.forbidden
                self.answer(201, {"status": {"allowed": allowed}})
                return
            match = _PATH.fullmatch(address.path)
            if match is None:
                self.answer(404, _refused("there is no such path"))
                return
            namespace, kind, name = match.groups()
            if self.command == "POST":
                status, answer = cluster.create(body, namespace)
                if cluster.deaf > 0:
                    cluster.deaf -= 1
                    self.close_connection = True
                    return
                self.answer(status, answer)
            elif self.command == "DELETE":
                cluster.remove(query["labelSelector"])
                self.answer(200, {"kind": "JobList"})
            elif name:
                found = [each for each in cluster.objects(kind) if each["metadata"]["name"] == name]
                self.answer(200, found[0]) if found else self.answer(
                    404, _refused(f"{kind} {name} not found")
                )
            elif "watch" in query:
                self.stream(kind, query)
            else:
                self.list(kind, query)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def list(self, kind: str, query: dict[str, str]) -> None:
            with cluster._lock:
                items = cluster.select(kind, query.get("labelSelector", ""))
                first, limit = int(query.get("continue", 0)), int(query.get("limit", 10**9))
                metadata = {"resourceVersion": str(cluster._version)}
                if first + limit < len(items):
                    metadata["continue"] = str(first + limit)
                data = json.dumps({"metadata": metadata, "items": items[first : first + limit]}).encode()
            self.answer(200, data)

        def stream(self, kind: str, query: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            until = time.monotonic() + float(query["timeoutSeconds"])
            since, selector = int(query["resourceVersion"]), query.get("labelSelector", "")
            watches = cluster._watches
            for event in cluster.follow(kind, since, until, selector):
                data = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if cluster._watches != watches:
                self.close_connection = True  # in the middle, without an end
            else:
                self.wfile.write(b"0\r\n\r\n")

        def answer(self, status: int, content: dict | bytes, headers: dict[str, str] | None = None) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _process(pod: dict, place: str, moved: str) -> subprocess.Popen:
    """What a container would run, as a process of this machine."""
    container = pod["spec"]["containers"][0]
    command = [text.replace("$$", "$") for text in container["command"]]
    if place:
        command = [text.replace(place, moved) for text in command]
    environment = {"PATH": os.environ["PATH"], "HOME": "/"}
    for each in container.get("env", ()):
        environment[each["name"]] = each.get(
            "value", pod["metadata"]["name"]
        )  # the one field that is referred to
    index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index")
    if index is not None:
        environment["JOB_COMPLETION_INDEX"] = index
    return subprocess.Popen(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _pretend(pod: dict) -> int:
    """What a job that does nothing leaves in its directory."""
    for record in pod["spec"]["containers"][0]["command"][7::2]:
        Path(record, "started").write_text(f"pod={pod['metadata']['name']}\nstarted={time.time()}\n")
        Path(record, "end").write_text(f"exit=0\nwhy=\nstarted={time.time()}\ncomplete=yes\n")
    return 0


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _kill_after(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)


def _matches(found: dict, selector: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    for key, value, values in re.findall(r"([\w./-]+)(?:=([\w.-]+)| in \(([^)]*)\))", selector):
        if labels.get(key) not in (values.split(",") if values else [value]):
            return False
    return True


def _refused(message: str) -> dict:
    return {"kind": "Status", "status": "Failure", "message": message}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
