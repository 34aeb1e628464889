"""The API server: how it is reached, and calls to it with plain JSON in and out.

The official `kubernetes` library brings what configures a connection: kubeconfig files, contexts, login
programs, certificates, proxies, and in a pod the service account, whose token is read anew as it
rotates. Its models are not used: they cost ten times what JSON does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from drawbar.errors import BackendError

REMEDY = "name a kubeconfig with KUBECONFIG or `kubeconfig` in [backends.kubernetes] of drawbar.toml"
ROLE = "give the account the Role in docs/reference/kubernetes-role.yaml"
JOBS, PODS = "jobs", "pods"
"""What is watched."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NO_RIGHT = re.compile(r"\bcannot \w+ resource\b")
"""How a server says that the account lacks a right; what it forbids otherwise sounds different."""
_GROUPS = {JOBS: "/apis/batch/v1", PODS: "/api/v1"}
_PAGE = 500
_DELETIONS = 100
"""How many Jobs are deleted in one call: their names are in its address."""
_CONNECT_S = 10.0
_CALL_S = 30.0
_CONNECTIONS = 24
STARTING_S = 30.0
"""How long a server may forbid what is allowed: while it starts it does not know the rights yet."""
_PATIENCE_S = 45.0
"""How long a server that asks to be called later is obeyed within one call."""


class ApiError(BackendError):
    """The server answered that it will not; `status` is that of HTTP."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, transient=status == 429 or status >= 500)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def not_found(self) -> bool:
        """Whether the object, or its kind, is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether an object of that name is there already."""
        return self.status == 409

    @property
    def forbidden(self) -> bool:
        """Whether it does not know the caller, or the caller's right: so while it starts, or for good."""
        return self.status == 401 or (self.status == 403 and _NO_RIGHT.search(str(self)) is not None)

    @property
    def expired(self) -> bool:
        """Whether the server has forgotten the version that was asked for."""
        return self.status == 410


class Rate:
    """At most so many calls a second on average, and some at once; for any thread."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, cancelled: threading.Event) -> None:
        """Return when it is this call's turn, or `cancelled` is set."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - 1.0) + 1 / self._per_s  # a second's worth may go at once
            turn = self._next
        if turn > now:
            cancelled.wait(turn - now)


class Stream:
    """Events of a watch, until the server ends it or somebody calls `close`."""

    def __init__(self, answer: Any, place: str) -> None:
        self._answer = answer
        self._place = place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import urllib3

        rest = b""
        try:
            for chunk in self._answer.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise BackendError(f"{self._place} broke off: {_cause(error)}", transient=True) from error
        finally:
            self._answer.close()
            self._answer.release_conn()

    def close(self) -> None:
        """End it, from any thread."""
        with contextlib.suppress(Exception):  # it may have ended by itself
            self._answer.shutdown()


class Api:
    """A connection to the API server of a cluster; its methods may be called from any thread.

    Each raises `ApiError` for a refusal, and a transient `BackendError` when no answer came; then what
    was asked for may have happened or not.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._namespace = namespace
        self._client: Any = None
        self._connecting = threading.Lock()
        self.calls: dict[str, int] = {}
        """How often each verb was used, for measurements."""

    @property
    def namespace(self) -> str:
        """The namespace of all jobs."""
        self._connection()
        return self._namespace or "default"

    @property
    def place(self) -> str:
        """The server's address."""
        return str(self._connection().configuration.host)

    def version(self) -> tuple[int, int]:
        """The server's version."""
        found = self._json("GET", "/version")
        digits = ["".join(filter(str.isdigit, str(found.get(part, "")))) for part in ("major", "minor")]
        return int(digits[0] or 0), int(digits[1] or 0)

    def create(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Make a Job; gives it as the server keeps it. A taken name is an `ApiError` with `conflict`."""
        return self._json("POST", self._path(JOBS), body=job)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object by name."""
        return self._json("GET", self._path(kind, name))

    def delete(self, label: str, names: Sequence[str]) -> None:
        """Delete the Jobs whose label has one of these values, and in the background their pods."""
        for start in range(0, len(names), _DELETIONS):
            query = {"labelSelector": f"{label} in ({','.join(names[start : start + _DELETIONS])})"}
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
            self._json("DELETE", self._path(JOBS), query=query, body=body)

    def warnings(self) -> dict[str, str]:
        """The last warning about each Job, by its name; nothing where events may not be read."""
        query = {"fieldSelector": "involvedObject.kind=Job,type=Warning", "limit": str(_PAGE)}
        try:
            found = self._json("GET", f"/api/v1/namespaces/{quote(self.namespace)}/events", query=query)
        except ApiError:
            return {}
        return {
            str((each.get("involvedObject") or {}).get("name")): str(each.get("message"))
            for each in found.get("items") or []
        }

    def quotas(self) -> list[dict[str, Any]]:
        """The namespace's resource quotas. Raises `ApiError` where they may not be read."""
        path = f"/api/v1/namespaces/{quote(self.namespace)}/resourcequotas"
        return list(self._json("GET", path).get("items") or [])

    def may(self, group: str, resource: str, verb: str) -> bool:
        """Whether this account may do something in the namespace."""
        resource, _, subresource = resource.partition("/")
        wish = {
            "namespace": self.namespace,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "verb": verb,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wish},
        }
        answer = self._json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool((answer.get("status") or {}).get("allowed"))

    def watch(self, kind: str, selector: str, version: str, seconds: float) -> Stream:
        """What happens to objects with these labels after a version, for at most so many seconds."""
        query = {
            "labelSelector": selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(seconds)),
        }
        answer = self._call("GET", self._path(kind), query=query, timeout_s=seconds + 15, stream=True)
        return Stream(answer, self.place)

    def list(self, kind: str, selector: str) -> tuple[list[dict[str, Any]], str]:
        """Every object with these labels as it is now, and the version of the list."""
        items: list[dict[str, Any]] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            page = self._json("GET", self._path(kind), query=query)
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    def close(self) -> None:
        """Close the connections."""
        with self._connecting:
            if self._client is not None:
                self._client.rest_client.pool_manager.clear()
            self._client = None

    def _path(self, kind: str, name: str = "") -> str:
        base = f"{_GROUPS[kind]}/namespaces/{quote(self.namespace)}/{kind}"
        return f"{base}/{quote(name)}" if name else base

    def _json(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a call, which is made again while the server asks to be called later."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                found = json.loads(self._call(method, path, **arguments).data)
            except ApiError as error:
                pause = error.retry_after_s
                if pause is None or time.monotonic() + pause > until:
                    raise
                time.sleep(pause * random.uniform(1.0, 1.5))  # noqa: S311 (so that not all come back at once)
                continue
            except ValueError as error:
                raise BackendError(f"{self.place}{path} answered with what is no JSON: {error}") from error
            if not isinstance(found, dict):
                raise BackendError(f"{self.place}{path} answered with {found!r}, which is no object")
            return found

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float = _CALL_S,
        stream: bool = False,
    ) -> Any:
        client = self._connection()
        import urllib3

        url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "User-Agent": "drawbar"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            for each in client.configuration.auth_settings().values():
                if each["in"] == "header":
                    headers[each["key"]] = each["value"]
            answer = client.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s),
                retries=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise BackendError(
                f"{client.configuration.host} does not answer: {_cause(error)}", transient=True
            ) from error
        verb = "WATCH" if stream else method
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if answer.status < 400:
            return answer
        raise _refusal(answer, f"{method} {path}")

    def _connection(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            client: Any = importlib.import_module("kubernetes.client")
            config: Any = importlib.import_module("kubernetes.config")
        except ImportError as error:
            raise BackendError(
                f"the kubernetes library cannot be imported ({error}); install drawbar[kubernetes]"
            ) from error
        configuration = client.Configuration()
        try:
            if self._kubeconfig or not _in_cluster():
                namespace = self._load_file(config, configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
                namespace = (_ACCOUNT / "namespace").read_text().strip()
        except (config.ConfigException, OSError, ValueError, TypeError) as error:
            cause = _cause(error).removeprefix("Invalid kube-config file. ").rstrip(".")
            raise BackendError(f"no cluster can be reached by {self._source}: {cause}; {REMEDY}") from error
        self._namespace = self._namespace or namespace
        configuration.connection_pool_maxsize = _CONNECTIONS
        return client.ApiClient(configuration)

    @property
    def _source(self) -> str:
        """Where it is written how to reach the cluster, as kubectl has it."""
        return self._kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"

    def _load_file(self, config: Any, configuration: Any) -> str:
        file = self._source
        if not any(Path(each).expanduser().exists() for each in file.split(os.pathsep)):
            raise FileNotFoundError("there is no such file")
        config.load_kube_config(file, self._context, client_configuration=configuration, persist_config=False)
        contexts, current = config.list_kube_config_contexts(file)
        chosen = next((each for each in contexts if each["name"] == self._context), current)
        return str((chosen.get("context") or {}).get("namespace") or "default")


def _in_cluster() -> bool:
    """In a pod with a service account, unless the user names a kubeconfig."""
    return "KUBECONFIG" not in os.environ and (_ACCOUNT / "token").exists()


def _refusal(answer: Any, call: str) -> ApiError:
    data = answer.data
    answer.release_conn()
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace").strip()[:500] or f"HTTP status {answer.status}"
    if answer.status == 401:
        message = f"{message}: the credentials of the kubeconfig are not accepted for {call}; renew them"
    elif _NO_RIGHT.search(message):
        message = f"{message}; {ROLE}"
    after = answer.headers.get("Retry-After", "")
    return ApiError(answer.status, message, float(after) if after.isdecimal() else None)


def _cause(error: BaseException) -> str:
    """The first of the chained errors that says something of its own, from the inside."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
