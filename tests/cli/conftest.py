"""A home, an analysis, and the program `drawbar` as a user starts it."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "drawbar.cli"]
PATIENCE_S = 60


class Cli:
    """Starts `drawbar` in a directory, with a home of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAWBAR_")},
            "DRAWBAR_HOME": str(self.home),
            "DRAWBAR_CONTAINERS": "none",
            "XDG_CONFIG_HOME": str(directory / "config"),
            "COLUMNS": "200",
        }

    def __call__(
        self, *arguments: object, status: int | None = 0, cwd: Path | None = None, **environment: str
    ):
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            cwd=cwd or self.directory,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        if status is not None:
            assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object, status: int | None = 0, **environment: str):
        return json.loads(self(*arguments, "--json", status=status, **environment).stdout)

    def start(self, *arguments: object, **options):
        return subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def analysis(self, steps: dict[str, list[str]], *, where: str = "analysis", outputs=(), **more) -> Path:
        """A serial analysis with an input `input.txt`; returns its reana.yaml."""
        directory = self.directory / where
        directory.mkdir(exist_ok=True)
        (directory / "input.txt").write_text("one\n")
        document = {
            "inputs": {"files": ["input.txt"], "parameters": {"word": "hello"}},
            "workflow": {
                "type": "serial",
                "specification": {
                    "steps": [
                        {"name": name, "environment": "example.org/image:1", "commands": commands}
                        for name, commands in steps.items()
                    ]
                },
            },
            "outputs": {"files": list(outputs)},
            **more,
        }
        file = directory / "reana.yaml"
        file.write_text(json.dumps(document))
        return file


class Gate:
    """Lets a test know that a job has started, and the job know that it may end."""

    def __init__(self, directory: Path) -> None:
        self.paths = [directory / "started.fifo", directory / "go.fifo"]
        for path in self.paths:
            os.mkfifo(path)
        # Open for both directions, so that nobody waits for somebody else to open. Closing ends the jobs.
        self._started, self._go = (os.open(path, os.O_RDWR) for path in self.paths)

    @property
    def command(self) -> str:
        started, go = self.paths
        return f"echo x > {started}; read line < {go}"

    def wait(self) -> None:
        """Until the job has started."""
        ready, _, _ = select.select([self._started], [], [], PATIENCE_S)
        assert ready, "the job did not start"
        os.read(self._started, 2)

    def open(self) -> None:
        """Let the job end."""
        os.write(self._go, b"\n")

    def close(self) -> None:
        os.close(self._started)
        os.close(self._go)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.close()
