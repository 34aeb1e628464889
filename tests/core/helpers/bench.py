"""Runs of the scripted engine on the scripted backend, driven by the real `Driver`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import scripted_engine
from drawbar import hookimpl
from drawbar.analysis import load_analysis
from drawbar.creation import create_run
from drawbar.driver import Driver
from drawbar.home import Home
from drawbar.plugins import Plugins, load_plugins
from drawbar.settings import load_settings
from drawbar.store import Store
from scripted_backend import World

HELPERS = Path(__file__).parent
PATIENCE_S = 20.0
"""After this a drive that should have ended is ended, so that its test fails."""


class Bench:
    """Makes analyses of the scripted engine, runs of them, and drives these."""

    def __init__(self, directory: Path, interpreter: Path, world: World, warm=None) -> None:
        self.directory = directory
        self.world = world
        self.warm = warm
        self.source = directory / "analysis"
        self.interpreter = interpreter
        self.plugins: Plugins = load_plugins()
        self.plugins.register(scripted_engine, "scripted")
        backend = world.backend()
        self.plugins.register(_plugin(backend), "inline")
        self.drives: list[Running] = []
        self.settings = self.set()

    def set(self, **overrides):
        """The settings of this bench, with others overridden; `__` stands for a dot."""
        file = self.directory / "system.toml"
        file.write_text(f'[engines.scripted]\ninterpreter = "{self.interpreter}"\n')
        self.settings = load_settings(
            start=self.directory,
            environ={
                "DRAWBAR_HOME": str(self.directory / "home"),
                "DRAWBAR_SYSTEM_CONFIG": str(file),
                "HOME": str(self.directory),
            },
            overrides={"backend": "inline"}
            | {key.replace("__", "."): each for key, each in overrides.items()},
        )
        return self.settings

    def write(
        self,
        code: str | None = None,
        /,
        *,
        outputs=(),
        parameters=None,
        inputs=None,
        engine="scripted",
        **rest,
    ):
        """Write the analysis, or what is given of it; `inputs` are contents of files by name."""
        self.source.mkdir(exist_ok=True, parents=True)
        document = {
            "inputs": {"files": list(inputs or ()), "parameters": parameters or {}},
            "workflow": {"type": engine, "file": "main.script", **rest},
            "outputs": {"files": list(outputs)},
        }
        (self.source / "reana.yaml").write_text(json.dumps(document))
        if code is not None:
            (self.source / "main.script").write_text(code)
        for name, text in (inputs or {}).items():
            place = self.source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def edit(self, name: str, text: str) -> None:
        (self.source / name).write_text(text)

    def create(self, code: str | None = None, /, *, create=None, **analysis):
        """A run of a new analysis; `create` are arguments of `create_run`."""
        self.write(code, **analysis)
        given = create or {}
        read = {key: given[key] for key in ("parameters", "options", "parameters_file") if key in given}
        return create_run(
            Home(self.settings.home),
            load_analysis(self.source, engines=self.plugins.engines, **read),
            settings=self.settings,
            **{"name": "r", "container": "none", **given},
        )

    def start(self, directory, *, cold=False, **arguments) -> Running:
        """Drive a run, with a forked engine process or, `cold`, a new one."""
        if self.warm is not None and not cold:
            arguments.setdefault("start_engine", self.warm.start)
        running = Running(self, directory, arguments)
        self.drives.append(running)
        return running

    def drive(self, directory, **arguments):
        return self.start(directory, **arguments).end()

    def run(self, code: str, /, **analysis):
        """Create a run and drive it; its directory and how it ended."""
        directory = self.create(code, **analysis)
        return directory, self.drive(directory)

    def close(self) -> None:
        self.world.release()
        for running in self.drives:
            running.driver.let_go()
            running.thread.join(PATIENCE_S)


class Running:
    """A drive on a thread of its own. `notices` and `events` are what it told."""

    def __init__(self, bench: Bench, directory, arguments) -> None:
        self.notices: list[str] = []
        self.events = []
        self.changed = threading.Condition()
        self.answer = None
        self.error: BaseException | None = None
        self.driver = Driver(
            directory,
            settings=bench.settings,
            plugins=bench.plugins,
            observe=self._observe,
            notice=self._notice,
            **arguments,
        )
        self.thread = threading.Thread(target=self._drive, daemon=True)
        self.thread.start()

    def end(self):
        """How the drive ended; raises what it raised."""
        self.thread.join(PATIENCE_S)
        late = self.thread.is_alive()
        if late:
            self.driver.let_go()
            self.thread.join(PATIENCE_S)
        assert not late, f"the drive did not end: {self.notices} {self.driver.trouble} {self.events[-3:]}"
        if self.error is not None:
            raise self.error
        return self.answer

    def wait_for(self, condition) -> None:
        """Wait until a condition holds, looked at whenever the drive tells something."""
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S), (self.notices, self.events[-3:])

    def wait_for_notice(self, text: str) -> None:
        self.wait_for(lambda: any(text in each for each in self.notices))

    def _drive(self) -> None:
        try:
            self.answer = self.driver.drive()
        except BaseException as error:
            self.error = error

    def _observe(self, event) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def _notice(self, text: str) -> None:
        with self.changed:
            self.notices.append(text)
            self.changed.notify_all()


def said(directory) -> list[SimpleNamespace]:
    """What the scripted engine told with `say`, over all drives of a run."""
    place = directory.path / "said.jsonl"
    if not place.exists():
        return []
    return [SimpleNamespace(**json.loads(line)) for line in place.read_text().splitlines()]


def attempts(directory):
    """The attempts in a run's store."""
    with Store(directory.store, read_only=True) as store:
        return list(store.attempts(directory.id))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _plugin(backend):
    @hookimpl
    def drawbar_register_backends():
        return [backend]

    return SimpleNamespace(drawbar_register_backends=drawbar_register_backends)
