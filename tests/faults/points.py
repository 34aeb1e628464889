"""Write points: places in drawbar's processes where the campaign may strike.

    python points.py ROLE SOCKET [OPTION...] -m MODULE ARGUMENT...

runs a module as python would, after wrapping the functions listed here. Before and after each of
them the process tells the campaign, over the socket, where it is, and goes on when it is told to.
Nothing of drawbar knows of this. Standard library only: supervisors load it too.
"""

# Supervisors start without pathlib.
# ruff: noqa: PTH100, PTH110, PTH118, PTH120, PTH123

from __future__ import annotations

import functools
import importlib
import os
import runpy
import socket
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))

ENGINES = os.path.join(HERE, "..", "..", "examples", "third-party-engine")

FILES = ("rename", "replace", "unlink", "mkdir", "fsync")

POINTS = {
    "driver": {
        "drawbar.store:Store": ("acquire", "commit", "release"),
        "drawbar.dispatcher:Dispatcher": (
            *("recover", "lookup", "want", "submit", "again", "accept", "status", "cancel_all"),
        ),
        "drawbar.enginehost:EngineProcess": ("start", "send", "close"),
        "drawbar_local.backend:LocalBackend": ("start", "submit", "find", "close"),
        "drawbar_local.link:Link": ("send", "close"),
        "drawbar_local.link:": ("start",),
        "drawbar.manifest:": ("write",),
        "drawbar.copying:": ("copy_file",),
        "os:": FILES,
    },
    "engine": {
        "drawbar.channel:Channel": ("flush",),
        "drawbar.jobclient:Client": ("submit", "accept", "finish"),
        "drawbar.tracker:WorkspaceTracker": ("begin", "settle", "changes", "accept", "hit", "failed"),
        "drawbar.journal:Journal": ("append",),
        "drawbar.versions:Versions": ("keep",),
        "drawbar.digests:Digests": ("flush",),
        "os:": FILES,
    },
    "supervisor": {
        "drawbar_local.supervisor:Supervisor": ("__init__",),
        "drawbar_local.supervisor:Driver": ("messages", "flush"),
        "drawbar_local.supervisor:": ("_append",),
        "drawbar_local.launch:Launcher": ("start",),
        "drawbar_local.records:": ("claim",),
    },
}


class Line:
    """The connection to the campaign; made when it is first needed."""

    def __init__(self, role: str, path: str) -> None:
        self._role = role
        self._path = path
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._socket: socket.socket | None = None

    def tell(self, point: str) -> None:
        """Say where this process is and wait for leave to go on."""
        if getattr(self._inside, "now", False):
            return
        self._inside.now = True
        try:
            with self._lock:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX)
                    self._socket.connect(self._path)
                    self._send(self._role)
                self._send(point)
        except OSError:
            pass  # the campaign is over
        finally:
            self._inside.now = False

    def _send(self, text: str) -> None:
        assert self._socket is not None
        self._socket.sendall(text.encode() + b"\n")
        self._socket.recv(1)


def install(role: str, path: str) -> None:
    """Wrap the functions of a role."""
    line = Line(role, path)
    _sabotage(role, os.path.join(os.path.dirname(path), "sabotage"))
    for place, names in POINTS[role].items():
        module, _, kind = place.partition(":")
        owner = importlib.import_module(module)
        owner = getattr(owner, kind) if kind else owner
        for name in names:
            _wrap(line, owner, name, f"{kind or module.rpartition('.')[2]}.{name.strip('_')}")
    if role == "driver":
        _watch_statements(line)
        _extend_to_supervisors(path)
    if role != "supervisor":
        line.tell("started")


def _wrap(line: Line, owner: object, name: str, shown: str) -> None:
    raw = vars(owner)[name]
    function = raw.__func__ if isinstance(raw, classmethod) else raw

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        line.tell(f"before {shown}")
        value = function(*args, **kwargs)
        line.tell(f"after {shown}")
        return value

    setattr(owner, name, classmethod(wrapped) if isinstance(raw, classmethod) else wrapped)


def _sabotage(role: str, file: str) -> None:
    """Break drawbar as the file says, to see whether the campaign notices."""
    if not os.path.exists(file):
        return
    with open(file) as text:
        how = text.read()
    if role == "driver" and how == "forget":
        from drawbar.store import DISCARDED, Store

        read = Store.attempts_of

        def forgetful(self, *job):
            rows = read(self, *job)
            for row in rows:
                row.outcome = row.outcome and DISCARDED
            return rows

        Store.attempts_of = forgetful
    elif role == "driver" and how == "abandon":
        from drawbar_local.backend import LocalBackend

        LocalBackend.find = lambda *_: {}
    elif role == "engine" and how == "neglect":
        from drawbar.tracker import Settled, WorkspaceTracker

        WorkspaceTracker.settle = lambda *_: Settled()


def _watch_statements(line: Line) -> None:
    """SQLite calls back before each statement: with the rows written, and not yet committed."""
    from drawbar.store import Store

    open_store = Store.__init__

    @functools.wraps(open_store)
    def opened(self, *args, **kwargs):
        open_store(self, *args, **kwargs)
        self._db.set_trace_callback(
            lambda statement: (
                line.tell(f"before sql {statement.split()[0]}")
                if statement.startswith(("BEGIN", "COMMIT"))
                else None
            )
        )

    Store.__init__ = opened


def _extend_to_supervisors(path: str) -> None:
    from drawbar_local import link

    link._BOOT = link._BOOT.replace(
        "main()",
        f"import sys; sys.path.insert(0, {HERE!r}); import points\n"
        f"points.install('supervisor', {path!r})\n"
        "main()",
    )


def main() -> None:
    _, role, path, *rest = sys.argv
    module, *arguments = rest[rest.index("-m") + 1 :]
    sys.path[0] = ENGINES
    sys.path.insert(1, os.path.dirname(path))  # the metadata that makes the example engine a plugin
    install(role, path)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
