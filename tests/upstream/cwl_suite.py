"""Runs an official CWL conformance suite, which this repository does not contain.

    python tests/upstream/cwl_suite.py FOLDER [--runner drawbar|cwltool] [--backend local] [-j 2] \\
        [argument of cwltest]...

FOLDER is a checkout of common-workflow-language/cwl-v1.2, cwl-v1.1 or common-workflow-language (v1.0);
`cwltest` must be installed. With the backend `local`, cwltool runs without containers, else with `docker`.
Every test runs in processes of its own, forked from ones that have loaded
cwltool already (for drawbar: the driver from a server, its engine from a warm parent); that changes
nothing but the time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENT = """\
import array, json, os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.connect({path!r})
order = json.dumps([sys.argv[1:], os.getcwd()]).encode()
socket.send_fds(sock, [len(order).to_bytes(4, "big") + order], [0, 1, 2])
answer = sock.recv(4)
sys.exit(answer[0] if answer else 70)
"""
MANIFESTS = ("conformance_tests.yaml", "v1.0/conformance_test_v1.0.yaml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runner", choices=("drawbar", "cwltool"), default="drawbar")
    parser.add_argument("--backend", default="local")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1)
    asked, rest = parser.parse_known_args()
    manifest = next((asked.folder / each for each in MANIFESTS if (asked.folder / each).exists()), None)
    if manifest is None:
        parser.error(f"{asked.folder} has none of {', '.join(MANIFESTS)}")
    with tempfile.TemporaryDirectory(prefix="cwl-suite-") as name:
        directory = Path(name)
        address = directory / "socket"
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", asked.runner, asked.backend, str(address), name],
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            tool = directory / "runner"
            tool.write_text(f"#!{sys.executable} -SE\n" + CLIENT.format(path=str(address)))
            tool.chmod(0o755)
            command = ["cwltest", "--test", manifest.name, "--tool", str(tool), f"-j{asked.j}", *rest]
            return _tell(command, manifest.parent.absolute())
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _tell(command: list[str], place: Path) -> int:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as suite:
        assert suite.stdout is not None
        for line in suite.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
    return suite.returncode


# The server: one fork for every test.


def serve(runner: str, backend: str, address: str, directory: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    prepare, run = {"drawbar": _drawbar, "cwltool": _cwltool}[runner](directory, backend)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ends: dict[int, socket.socket] = {}
    listener.settimeout(0.02)
    while True:
        while ends:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            with ends.pop(pid) as waiting:
                code = os.waitstatus_to_exitcode(status)
                waiting.sendall(bytes([code if 0 <= code < 256 else 70]))
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.setblocking(True)
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        arguments, place = json.loads(data[4:])
        prepared = prepare()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                os.chdir(place)
                code = run(arguments, prepared)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        if prepared is not None:
            prepared.connection.close()
            os.close(prepared.output)
        for descriptor in descriptors:
            os.close(descriptor)
        ends[pid] = connection


def _drawbar(directory: str, backend: str):
    from drawbar.enginehost import WarmParent
    from drawbar.plugins import load_plugins
    from drawbar.settings import load_settings
    from drawbar_cwl import runner

    settings = load_settings(start=Path(directory), environ={"DRAWBAR_HOME": directory})
    warm = WarmParent("cwl", settings)
    plugins = load_plugins()
    assert plugins.engine("cwl").Options
    assert plugins.backend(backend).Options

    def run(arguments, engine):
        arguments = ["--backend", backend, *arguments]
        sys.argv = ["drawbar-cwl-runner", *arguments]
        return runner.main(arguments, start_engine=lambda *_: engine)

    return lambda: warm.start("cwl", settings), run


def _cwltool(_: str, backend: str):
    from cwltool.main import main as cwltool
    from cwltool.process import get_schema

    for version in ("v1.0", "v1.1", "v1.2"):
        get_schema(version)

    flags = ["--no-container"] if backend == "local" else []

    def run(arguments, _):
        return cwltool([*flags, *arguments])

    return lambda: None, run


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(main())
