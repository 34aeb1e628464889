"""Engine processes that go wrong, through the real driver: each ends its run with a reason, in time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
from pathlib import Path

import pytest
from bench import alive, said
from drawbar.enginehost import EngineProcess, WarmParent, environment, inspect, source_order
from drawbar.errors import EngineDied, InfrastructureError
from drawbar.model import RunState

PID = "say(pid=__import__('os').getpid())\n"
RAW = """
import json, struct, threading
connection = jobs._channel._connection
def raw(data):
    connection.sendall(data)
    threading.Event().wait()
def frame(*messages):
    data = json.dumps(messages).encode()
    raw(struct.pack("!I", len(data)) + data)
"""


def gone(directory) -> None:
    """Every process that the engine told of is gone, or goes within a bounded time."""
    until = time.monotonic() + 20
    for each in (each for each in said(directory) if hasattr(each, "pid")):
        while alive(each.pid):
            assert time.monotonic() < until, f"process {each.pid} is left"
            time.sleep(0.01)


def ended(bench, code: str, *, status: int = 3, cold: bool = True, **settings):
    bench.set(**settings)
    bench.world.hold("held")
    directory = bench.create(PID + code)
    result = bench.drive(directory, cold=cold)
    assert (result.state, result.exit_status) == (RunState.FAILED, status), result
    gone(directory)
    return result, directory


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('oh no')", "RuntimeError: oh no (main.script, line 2)"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os._exit(7)", "7"),
        ("import os; print('last words', flush=True); os._exit(0)", "last words"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_a_crash_is_told_with_how(bench, code, words, cold):
    result, _ = ended(bench, code, cold=cold)
    if cold or "Error" in words or "last" in words:
        assert words in result.message


def test_the_trace_of_a_crash_is_in_the_engines_output(bench):
    _, directory = ended(bench, "def inner(): raise RuntimeError('oh no')\ninner()")
    assert "in inner" in directory.engine_output.read_text()


def test_a_crash_ends_the_jobs_in_flight(bench):
    ended(bench, "jobs.submit([job('held', 'exit', '0')])\nimport os; os._exit(1)")
    assert bench.world.cancelled == ["held"]


def test_a_crash_loses_nothing_that_was_accepted(bench):
    code = "finish(job('a', 'write', 'x', '1', outputs=['x']))\n"
    _, directory = ended(bench, code + "import os; os._exit(1)")
    bench.edit("main.script", PID + code)
    assert bench.drive(directory).exit_status == 0
    assert bench.world.ledger == ["a"]


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import threading; threading.Event().wait()",
        "from signal import *\n[signal(n, SIG_IGN) for n in (SIGTERM, SIGINT, SIGHUP)]\nwhile True: pass",
    ],
)
def test_an_endless_loop_ends_after_the_time_that_settings_give(bench, loop):
    result, directory = ended(bench, loop, engine__silence_s=1)
    assert "engine.silence_s" in result.message
    assert "main.script" in directory.engine_output.read_text()  # where it was


def test_an_endless_loop_in_inspect_ends_too(bench):
    bench.set(engine__silence_s=1)
    _, result = bench.run("# inspect: while True: pass")
    assert result.exit_status == 3
    assert "engine.silence_s" in result.message


def test_waiting_for_a_long_job_is_not_silence(bench):
    bench.set(engine__silence_s=1)
    bench.world.hold("held")
    directory = bench.create("finish(job('held', 'exit', '0'))\nimport time; time.sleep(0.5)")
    drive = bench.start(directory)
    bench.world.wait_for("held")
    time.sleep(2.5)
    bench.world.release()
    assert drive.end().exit_status == 0


def test_a_flood_of_output_ends_the_run(bench):
    result, directory = ended(bench, "while True: print('x' * 100_000)", engine__output_mib=1)
    assert "engine.output_mib" in result.message
    assert directory.engine_output.stat().st_size < 4 << 20


def test_memory_beyond_the_limit_is_an_error_of_the_engine(bench):
    result, _ = ended(bench, "x = bytearray(2_000_000_000)", engine__memory_mib=1024)
    assert "MemoryError" in result.message


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raw(b'\\xff\\xff\\xff\\xff')", "frame of 4294967295 bytes"),
        ("raw(struct.pack('!I', 3) + b'abc')", "no JSON"),
        ("raw(struct.pack('!I', 2) + b'{}')", "list of messages"),
        ("raw(struct.pack('!I', 3) + b'[1]')", "list of messages"),
        ("raw(struct.pack('!I', 200_000) + b'[' * 200_000)", "JSON"),
        ("frame(['sing'])", "'sing'"),
        ("frame(['place', 1])", "'place'"),
        ("frame(['place', {}])", "'place'"),
        ("frame(['lookup', [1]])", "'lookup'"),
        ("frame(['want', [['never', 1]]])", "'want'"),
        ("frame(['submit', [{}]])", "'submit'"),
        ("frame(['submit', [{'spec': '{\"identity\": 1}', 'key': 'k', 'document': ''}]])", "impossible job"),
        ("frame(['submit', [{**good, 'key': {}}]])", "'submit'"),
        ("frame(['submit', [{**good, 'why': {}}]])", "'submit'"),
        ("frame(['submit', [{**good, 'spec': 'x'}]])", "impossible job"),
        ("frame(['submit', [{**good, 'spec': dumps({**encode(spec), 'try_number': 1 << 70})}]])", "'submit'"),
        ("frame(['accept', 'never', 1, {}])", "'accept'"),
        ("frame(['reject', 'never', 1, 'exit-code', ''])", "'reject'"),
        ("frame(['consumed', [{}]])", "'consumed'"),
        ("frame(['consumed', 3])", "'consumed'"),
        ("frame(['progress', {}])", "'progress'"),
        ("frame(['progress', 1 << 70])", "'progress'"),
        ("frame(['notice', {}])", "'notice'"),
        ("frame(['hits', 'x'])", "'hits'"),
        ("frame(['cancel', 3])", "'cancel'"),
        ("frame(['adopt', {}])", "'adopt'"),
        ("frame(['clear', [[1]]])", "'clear'"),
        ("frame(['hello', 1])", "'hello'"),
        ("frame(['inspected', {'sings': 1}])", "'inspected'"),
        ("frame(['failed', {}])", "'failed'"),
        ("frame(['finished', 3])", "'finished'"),
        ("frame([['a']])", "means nothing"),
    ],
)
def test_what_makes_no_sense_on_the_wire_ends_the_run(bench, what, words):
    good = (
        "from drawbar.codec import dumps, encode\n"
        "spec = job('a', 'exit', '0')\n"
        "good = {'spec': dumps(spec), 'key': 'k', 'document': '{}', 'why': ''}\n"
    )
    result, _ = ended(bench, RAW + good + what, cold=False)
    assert words in result.message


def test_closed_output_is_no_end(bench):
    directory = bench.create("import os\nos.close(1); os.close(2)\nfinish(job('a', 'exit', '0'))")
    assert bench.drive(directory, cold=True).exit_status == 0


def test_a_closed_connection_is_the_end_whatever_the_process_does(bench):
    result, _ = ended(bench, RAW + "connection.shutdown(2); connection.close(); threading.Event().wait()")
    assert "engine" in result.message


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("how", ["finishes", "crashes", "is cancelled"])
def test_what_an_engine_started_does_not_outlive_it(bench, how, cold):
    code = PID + (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "stubborn = subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP INT; while :; do sleep 1; done'])\n"
        "say(pid=child.pid); say(pid=stubborn.pid)\n"
    )
    code += {
        "finishes": "",
        "crashes": "import os; os._exit(1)",
        "is cancelled": "drive(job('held', 'exit', '0'))",
    }[how]
    bench.world.hold("held")
    directory = bench.create(code)
    drive = bench.start(directory, cold=cold)
    if how == "is cancelled":
        bench.world.wait_for("held")
        drive.driver.cancel()
    drive.end()
    assert len([each for each in said(directory) if hasattr(each, "pid")]) == 3
    gone(directory)


def test_an_engine_dies_with_its_driver(bench, tmp_path):
    ours = os.fork
    reading, writing = os.pipe()
    pid = ours()
    if pid == 0:
        with contextlib.suppress(BaseException):
            process = EngineProcess.start("scripted", bench.settings)
            os.write(writing, struct.pack("!I", process.pid))
            time.sleep(1000)
        os._exit(1)
    engine = struct.unpack("!I", os.read(reading, 4))[0]
    os.close(reading)
    os.close(writing)
    assert alive(engine)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until = time.monotonic() + 20
    while alive(engine):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_interpreter_that_is_none_is_an_error_that_names_it(bench):
    file = Path(bench.settings.origins["engines.scripted.interpreter"])
    assert file.name == "system.toml"
    bench.interpreter = bench.directory / "no-python"
    bench.set()
    directory = bench.create("pass")
    result = bench.drive(directory, cold=True)
    assert result.exit_status == 3
    assert "no-python" in result.message


def test_the_configured_interpreter_runs_the_engine(bench, interpreter):
    directory = bench.create("import sys; say(executable=sys.executable)")
    assert bench.drive(directory, cold=True).exit_status == 0
    assert said(directory)[0].executable == str(interpreter)


def test_what_lies_in_the_current_directory_is_no_module(bench, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('taken')")
    (tmp_path / "drawbar.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert bench.drive(bench.create("pass"), cold=True).exit_status == 0


def test_the_environment_is_passed_on_by_name():
    own = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HOME": "/h",
        "DRAWBAR_HOME": "/d",
        "AWS_SECRET_ACCESS_KEY": "s",
        "PYTHONPATH": "/p",
        "PYTHONHASHSEED": "77",
        "LD_PRELOAD": "x",
    }
    passed = environment(own)
    assert passed.keys() == {"PATH", "LC_ALL", "HOME", "PYTHONHASHSEED", "PYTHONUNBUFFERED"}
    assert passed["PYTHONHASHSEED"] != "77"


def test_inspect_asks_an_engine_process_of_its_own(bench):
    from drawbar.analysis import load_analysis

    bench.write("# step a\n# step b after a\n")
    analysis = load_analysis(bench.source, engines=bench.plugins.engines)
    info = inspect(analysis, settings=bench.settings)
    assert [(step.name, step.depends_on) for step in info.steps] == [("a", ()), ("b", ("a",))]
    bench.edit("main.script", "# inspect: import os; os._exit(3)")
    with pytest.raises(EngineDied, match="exit status 3"):
        inspect(analysis, settings=bench.settings)
    bench.edit("main.script", "# inspect: while True: print('x' * 1000)")
    bench.set(engine__output_mib=1)
    with pytest.raises(EngineDied, match=r"engine\.output_mib"):
        inspect(analysis, settings=bench.settings)


# the warm parent


def inspected(process: EngineProcess, analysis) -> tuple[list, float]:
    """What an engine process finds in an analysis, and the CPU seconds that it has used."""
    try:
        order = {"engine": "scripted", "memory_mib": None, "source": source_order(analysis.source())}
        process.send([["inspect", order]])
        messages = []
        while not any(each[0] == "inspected" for each in messages):
            select.select([process.connection], [], [], 30)
            messages += process.read() or []
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return messages, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    finally:
        process.close()


def test_a_warm_parent_forks_engines_that_answer_the_same_for_less(bench, warm):
    from drawbar.analysis import load_analysis

    bench.write("# step a\n# step b after a\n")
    analysis = load_analysis(bench.source, engines=bench.plugins.engines)
    cold = [inspected(EngineProcess.start("scripted", bench.settings), analysis) for _ in range(5)]
    forked = [inspected(warm.start("scripted", bench.settings), analysis) for _ in range(20)]
    assert all(messages == cold[0][0] for messages, _ in [*cold, *forked])
    spent = [sum(each for _, each in some) / len(some) for some in (cold, forked)]
    print(f"CPU seconds of an engine process: {spent[0]:.3f} new, {spent[1]:.3f} forked")
    assert spent[1] < spent[0] / 2


def test_a_warm_parent_that_is_gone_is_an_error(bench):
    parent = WarmParent("scripted", bench.settings)
    process = parent.start("scripted", bench.settings)
    parent.close()
    until = time.monotonic() + 20
    while alive(process.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.close()
    with pytest.raises(EngineDied, match="scripted"):
        parent.start("scripted", bench.settings)
    with pytest.raises(InfrastructureError):
        WarmParent("no-such-engine", bench.settings)


def test_a_warm_parent_that_was_killed_is_an_error(bench):
    parent = WarmParent("scripted", bench.settings)
    process = parent.start("scripted", bench.settings)
    os.kill(int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    process.close()
    for _ in range(2):
        with pytest.raises(EngineDied, match="warm parent"):
            parent.start("scripted", bench.settings)
    parent.close()


def test_no_process_is_left_of_forked_engines(bench, warm):
    processes = [warm.start("scripted", bench.settings) for _ in range(3)]
    for process in processes:
        process.close()
    until = time.monotonic() + 20
    while any(alive(process.pid) for process in processes):
        assert time.monotonic() < until
        time.sleep(0.01)
