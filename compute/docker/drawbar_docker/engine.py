"""An engine that speaks the Docker API: Docker's daemon, or Podman's service. Where it is, and calls to it.

The `docker` library brings the transports (sockets, TLS, ssh), the contexts and the credentials of
registries. It is imported with the first connection.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from drawbar.errors import BackendError
from drawbar.model import Resources

REMEDY = (
    "start Docker or Podman's service (podman system service), or name where it is: DOCKER_HOST, "
    "a docker context, or `host` in [backends.docker] of drawbar.toml"
)
_CALL_S = 55.0
_CONNECT_S = 10.0
_FETCH_S = 900.0
"""How long an engine may say nothing while it fetches an image."""
_CHANGING_S = 5.0
"""How long a container may be in between two states."""
_PAUSE_S = 0.1
_CONNECTIONS = 32
_LOG_BYTES = 4096
_NOT_RUNNING = re.compile("not running|container state improper")
"""What Podman says, with the status of a failure of its own, where Docker says 409."""


class EngineError(BackendError):
    """The engine answered that it will not; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def not_found(self) -> bool:
        """Whether a container or an image is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether the name of a container is taken (Podman says that in words only)."""
        return self.status == 409 or "already in use" in str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an engine says of itself."""

    name: str
    cpus: float
    memory_mib: int
    rootless: bool = False
    """Its root is the user who runs it."""
    remapped: bool = False
    """Users of containers are others on the machine, unless a container says otherwise."""
    labelled: bool = False
    """SELinux would keep containers from the user's files."""
    gpus: bool = False

    def lacks(self, wanted: Resources) -> str | None:
        """What the engine's machine can never give, or None."""
        if wanted.cpus > self.cpus:
            return f"asks for {wanted.cpus:g} CPUs, of which the engine's machine has {self.cpus:g}"
        if self.memory_mib and (wanted.memory_mib or 0) > self.memory_mib:
            return f"asks for {wanted.memory_mib} MiB of memory, the engine's machine has {self.memory_mib}"
        if wanted.gpus and not self.gpus:
            return "asks for a GPU, and the engine has no runtime for them (the NVIDIA container toolkit)"
        return None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Facts:
        """The facts in an answer to `/info`."""
        options = {option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}
        runtimes = info.get("Runtimes") or {}
        return cls(
            name=info.get("Name") or "docker",
            cpus=float(info.get("NCPU") or 1),
            memory_mib=int(info.get("MemTotal") or 0) >> 20,
            rootless="rootless" in options or bool(info.get("Rootless")),  # Docker's way, and Podman's
            remapped="userns" in options,
            labelled="selinux" in options,
            gpus=any("nvidia" in name for name in runtimes),
        )


class EventStream(Protocol):
    """Events, until the engine, somebody who calls `close`, or time ends them."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def __next__(self) -> dict[str, Any]: ...
    def close(self) -> None:
        """End it, from any thread."""


class Engine:
    """A connection to an engine; its methods may be called from any thread.

    Each raises `EngineError` for a refusal, and a transient `BackendError` when no answer came; then
    what was asked for may have happened or not.
    """

    def __init__(self, host: str | None = None) -> None:
        self._host = host
        self.place = host or "the usual places"
        self._client: Any = None
        self._facts: Facts | None = None
        self._connecting = threading.Lock()

    @property
    def _api(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            import docker
        except ImportError as error:
            raise BackendError(
                f"the docker library cannot be imported ({error}); install drawbar[docker]"
            ) from error
        try:
            where = _where(self._host)
            self.place = where.get("base_url", self.place)
            return docker.APIClient(
                **where, version="auto", timeout=_CALL_S, max_pool_size=_CONNECTIONS, use_ssh_client=True
            )
        except (docker.errors.DockerException, OSError, ValueError) as error:
            raise BackendError(
                f"no container engine answers at {self.place} ({_last_cause(error)})",
                transient=True,
            ) from error

    def facts(self, *, again: bool = False) -> Facts:
        """What the engine is and has; asked for `again` when another may be there by now."""
        facts = None if again else self._facts
        if facts is None:
            facts = self._facts = Facts.of(self._json("GET", "/info"))
        return facts

    def containers(self, *labels: str) -> list[dict[str, Any]]:
        """Every container, running or not, that has these labels (`name` or `name=value`)."""
        filters = json.dumps({"label": list(labels)})
        found = self._json("GET", "/containers/json", params={"all": "true", "filters": filters})
        return found if isinstance(found, list) else []

    def inspect(self, container: str) -> dict[str, Any]:
        """Everything about a container, by name or id."""
        return _mapping(self._json("GET", f"/containers/{container}/json"))

    def create(self, name: str, configuration: Mapping[str, Any]) -> str:
        """Make a container and give its id. A taken name is an `EngineError` with `conflict`."""
        made = self._json("POST", "/containers/create", params={"name": name}, json=configuration)
        return str(_mapping(made)["Id"])

    def start(self, container: str) -> None:
        """Start a container; one that was started before is left as it is."""
        self._call("POST", f"/containers/{container}/start")

    def wait(self, container: str) -> int:
        """Wait for a container that was started to end, and give its exit code."""
        return int(_mapping(self._json("POST", f"/containers/{container}/wait"))["StatusCode"])

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container; one that does not run, or is not there, is ignored."""
        try:
            self._call("POST", f"/containers/{container}/kill", params={"signal": signal})
        except EngineError as error:
            if not (error.not_found or error.status == 409 or _NOT_RUNNING.search(str(error))):
                raise

    def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, running or not; one that is gone is ignored.

        Engines refuse to remove what they are just starting, stopping or removing: that is tried again.
        """
        deadline = time.monotonic() + _CHANGING_S
        while True:
            try:
                self._call("DELETE", f"/containers/{container}", params={"force": "true", "v": "true"})
                return
            except EngineError as error:
                late = time.monotonic() > deadline
                if error.not_found or (late and error.status == 409):  # 409: its removal is under way
                    return
                if late:
                    raise
            time.sleep(_PAUSE_S)

    def log(self, container: str) -> str:
        """What the container itself printed first, up to 4 KiB.

        Not the last lines: Podman 4, asked for a `tail`, loses lines that were written in pieces.
        """
        import requests

        answer = self._call(
            "GET", f"/containers/{container}/logs", params={"stdout": "1", "stderr": "1"}, stream=True
        )
        printed = b""
        try:
            for chunk in answer.iter_content(chunk_size=None):
                printed += chunk
                if len(printed) >= _LOG_BYTES:
                    break
        except (requests.RequestException, OSError) as error:
            raise self._silent(error) from error
        finally:
            answer.close()
        return _demultiplexed(printed[:_LOG_BYTES]).decode(errors="replace").strip()

    def events(self, since: float, until: float) -> EventStream:
        """What happens to containers, as events, until that time; it can be closed.

        Of all containers: Podman tells nothing when asked for those with a label.
        """
        import docker

        answer = self._call(
            "GET",
            "/events",
            params={
                "filters": json.dumps({"type": ["container"]}),
                "since": f"{since:.0f}",
                "until": f"{until:.0f}",
            },
            stream=True,
            timeout=(_CONNECT_S, max(1.0, until - time.time()) + _CONNECT_S),
        )
        stream: EventStream = docker.types.CancellableStream(self._lines(answer), answer)
        return stream

    def image(self, reference: str) -> dict[str, Any] | None:
        """Everything about an image that is here, by name or id; None when it is not."""
        try:
            return _mapping(self._json("GET", f"/images/{reference}/json"))
        except EngineError as error:
            if error.not_found:
                return None
            raise

    def pull(self, repository: str, tag: str) -> Iterator[dict[str, Any]]:
        """Fetch an image with the user's credentials for its registry; yields what the engine reports."""
        import docker

        api = self._api
        registry, _ = docker.auth.resolve_repository_name(repository)
        credentials = docker.auth.get_config_header(api, registry)
        answer = self._call(
            "POST",
            "/images/create",
            params={"fromImage": repository, "tag": tag},
            headers={"X-Registry-Auth": credentials} if credentials else {},
            stream=True,
            timeout=(_CONNECT_S, _FETCH_S),
        )
        yield from self._lines(answer)

    def close(self) -> None:
        """Close the connections."""
        with self._connecting:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            return self._call(method, path, **arguments).json()
        except ValueError as error:
            raise BackendError(f"{self.place}: {path} was answered with what is no JSON: {error}") from error

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        api = self._api
        import requests

        arguments.setdefault("timeout", _CALL_S)
        try:
            answer = api.request(method, f"{api.base_url}/v{api.api_version}{path}", **arguments)
        except (requests.RequestException, OSError) as error:
            raise self._silent(error) from error
        if answer.status_code < 400:
            return answer
        try:
            message = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.text.strip() or answer.reason
        raise EngineError(answer.status_code, str(message).strip())

    def _lines(self, answer: Any) -> Iterator[dict[str, Any]]:
        import requests

        rest = b""
        try:
            for chunk in answer.iter_content(chunk_size=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in (*lines, rest):
                    try:
                        event = json.loads(line)
                    except ValueError:
                        continue  # the rest of it is still to come
                    if line is rest:
                        rest = b""
                    if isinstance(event, dict):
                        yield event
        except (requests.RequestException, OSError) as error:
            raise self._silent(error) from error
        finally:
            answer.close()

    def _silent(self, error: BaseException) -> BackendError:
        return BackendError(f"{self.place} does not answer: {_last_cause(error)}", transient=True)


def _where(host: str | None) -> dict[str, Any]:
    """Arguments for the library: the host that is named, DOCKER_HOST, the docker context, a usual socket."""
    import docker

    if host:
        return {**docker.utils.kwargs_from_env(), "base_url": host}
    if os.environ.get("DOCKER_HOST"):
        found: dict[str, Any] = docker.utils.kwargs_from_env()
        return found
    named = os.environ.get("DOCKER_CONTEXT") or None
    context = docker.ContextAPI.get_context(named)
    if context is None and named:
        raise ValueError(f"there is no docker context {named!r}")
    if context is not None and context.name != "default" and context.Host:
        return {"base_url": context.Host, **({"tls": context.TLSConfig} if context.TLSConfig else {})}
    sockets = list(_usual_sockets())
    return {"base_url": f"unix://{next(filter(_is_usable, sockets), sockets[0])}"}


def _usual_sockets() -> Iterator[Path]:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    yield Path("/var/run/docker.sock")
    yield runtime / "docker.sock"
    yield runtime / "podman" / "podman.sock"
    yield Path("/run/podman/podman.sock")


def _is_usable(socket: Path) -> bool:
    return os.access(socket, os.R_OK | os.W_OK)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BackendError(f"the engine answered with {value!r}, which is no object")
    return value


def _demultiplexed(data: bytes) -> bytes:
    """The text in an attached stream: frames of a header of eight bytes, the last four the length.

    What is in no frame is no text of the container's: Podman adds its own error there when it is removed.
    """
    text = b""
    while len(data) >= 8 and data[0] in (0, 1, 2) and data[1:4] == b"\0\0\0":
        length = int.from_bytes(data[4:8], "big")
        text, data = text + data[8 : 8 + length], data[8 + length :]
    return text


def _last_cause(error: BaseException) -> str:
    """The first of the chained errors that says something of its own, from the inside."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
