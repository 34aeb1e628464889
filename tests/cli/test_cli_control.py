"""Runs in the background, from other terminals, cancelled, interrupted, on terminals that close."""

import contextlib
import os
import pty
import select
import signal
import sqlite3
import sys
import time

import pytest

PATIENCE_S = 60


def until(condition, what):
    """Wait for something that no event tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def state_of(cli, run="analysis"):
    return cli.json("status", run)["state"]


def lease_pid(cli, run="analysis.1"):
    from drawbar.home import Home

    lease = Home(cli.home).find(run).lease()
    return lease.pid if lease else 0


def gone(pid):
    from drawbar.lease import start_of

    return not start_of(pid)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cli, *arguments):
        pid, self.file = pty.fork()
        if pid == 0:
            os.chdir(cli.directory)
            environment = {**cli.environment, "TERM": "xterm-256color"}
            os.execve(sys.executable, [sys.executable, "-m", "drawbar.cli", *arguments], environment)
        self.pid, self.text = pid, ""

    def read_until(self, text):
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.text:
            ready, _, _ = select.select([self.file], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} is not in {self.text!r}"
            self.text += self._read()

    def _read(self):
        try:
            data = os.read(self.file, 65536)
        except OSError:
            data = b""
        assert data, f"the terminal has ended after {self.text!r}"
        return data.decode(errors="replace")

    def type(self, text):
        os.write(self.file, text.encode())

    def close(self):
        os.close(self.file)
        self.file = -1

    def wait(self):
        """The exit status; reads on, since a terminal that nobody reads blocks its programs."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"still alive: {self.text!r}"
            if self.file >= 0 and select.select([self.file], [], [], 0.02)[0]:
                try:
                    self.text += os.read(self.file, 65536).decode(errors="replace")
                except OSError:
                    time.sleep(0.02)
            elif self.file < 0:
                time.sleep(0.02)


def test_a_detached_run_is_seen_followed_and_waited_for(cli, gate):
    cli.analysis({"first": [f"echo early; {gate.command}; echo late"]})
    done = cli("run", "analysis", "--detach")
    assert "drawbar status analysis.1" in done.stderr
    gate.wait()
    document = cli.json("status", "analysis")
    assert document["state"] == "running"
    assert document["jobs"][0]["state"] == "running"
    assert "running" in cli("list").stdout
    assert cli("wait", "analysis", "--timeout", "0.1", status=3)
    assert "is driven by" in cli("delete", "analysis", status=2).stderr
    assert "is driven by" in cli("resume", "analysis", status=3).stderr
    follower = cli.start("logs", "analysis", "--follow")
    assert follower.stdout.readline() == "==> first: first <==\n"
    assert follower.stdout.readline() == "early\n"
    waiter = cli.start("wait", "analysis")
    gate.open()
    out, err = follower.communicate(timeout=PATIENCE_S)
    assert (out, err, follower.returncode) == ("late\n", "", 0)
    _, err = waiter.communicate(timeout=PATIENCE_S)
    assert "analysis.1: finished" in err
    assert waiter.returncode == 0
    assert "analysis.1: finished" in (cli.home / "runs/analysis.1/driver.log").read_text()


def test_a_detached_run_copies_its_outputs_and_tests_them(cli):
    cli.analysis({"only": ["echo 1 > a"]}, outputs=["a"])
    cli("run", "analysis", "--detach", "--outputs", "results", "--test")
    cli("wait", "analysis")
    assert (cli.directory / "results/a").read_text() == "1\n"


def test_a_detached_run_that_cannot_start_says_why(cli):
    cli.analysis({"only": ["true"]})
    cli("run", "analysis")
    (cli.directory / "analysis/input.txt").unlink()
    done = cli("resume", "analysis", "--detach", status=2)
    assert "input.txt" in done.stderr


def test_cancel_stops_the_run_and_its_jobs(cli, gate):
    cli.analysis({"first": ["echo 1 > a"], "second": [f"echo $$$$ > pid; {gate.command}"]})
    cli("run", "analysis", "--detach")
    gate.wait()
    pid = int((cli.home / "runs/analysis.1/workspace/pid").read_text())
    assert "analysis.1: stopped" in cli("cancel", "analysis").stderr
    until(lambda: gone(pid), "the end of the job")
    states = [job["state"] for job in cli.json("status", "analysis")["jobs"]]
    assert states == ["finished", "cancelled"]
    assert "has ended before" in cli("cancel", "analysis").stderr
    cli("wait", "analysis", status=130)


def test_a_killed_driver_shows_as_interrupted_and_cancel_ends_what_is_left(cli, gate):
    cli.analysis({"only": [f"echo $$$$ > pid; {gate.command}"]})
    cli("run", "analysis", "--detach")
    gate.wait()
    pid = int((cli.home / "runs/analysis.1/workspace/pid").read_text())
    os.kill(lease_pid(cli), signal.SIGKILL)
    until(lambda: state_of(cli) == "interrupted", "the end of the driver")
    assert "drawbar resume analysis.1" in cli("status", "analysis").stdout
    assert "drawbar resume analysis.1" in cli("wait", "analysis", status=130).stderr
    assert "may be alive" in cli("delete", "analysis", status=2).stderr
    assert not gone(pid)
    cli("cancel", "analysis")
    until(lambda: gone(pid), "the end of the job")
    assert state_of(cli) == "stopped"
    cli("delete", "analysis")


def test_all_interrupted_runs_are_resumed_at_once(cli, gate):
    cli.analysis({"only": [gate.command]})
    cli("run", "analysis", "--detach")
    gate.wait()
    os.kill(lease_pid(cli), signal.SIGKILL)
    until(lambda: state_of(cli) == "interrupted", "the end of the driver")
    assert "analysis.1: runs in the background" in cli("resume", "--all").stderr
    gate.open()
    assert "analysis.1: finished" in cli("wait", "analysis").stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_jobs_alive(cli, gate, number):
    cli.analysis({"only": [f"{gate.command}; echo x >> ../ledger"]})
    process = cli.start("run", "analysis")
    gate.wait()
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "drawbar resume analysis.1" in err
    gate.open()
    cli("resume", "analysis")
    assert (cli.home / "runs/analysis.1/ledger").read_text() == "x\n"


def test_an_ignored_signal_stays_ignored(cli, gate):
    cli.analysis({"only": [gate.command]})
    process = cli.start("run", "analysis", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    gate.wait()
    process.send_signal(signal.SIGHUP)
    gate.open()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_a_silent_driver_on_another_host_is_taken_over_only_when_that_is_said(cli):
    cli.analysis({"only": ["true"]})
    cli("run", "analysis")
    with contextlib.closing(sqlite3.connect(cli.home / "runs/analysis.1/store.sqlite")) as store:
        store.execute("UPDATE lease SET host = 'elsewhere', pid = 7, heartbeat = 0")
        store.commit()
    assert "--take-over" in cli("resume", "analysis", status=3).stderr
    cli("resume", "analysis", "--take-over")


def test_the_document_of_a_detached_run_and_of_an_interrupted_one(cli, gate):
    cli.analysis({"only": [gate.command]})
    assert cli.json("run", "analysis", "--detach")["state"] == "running"
    gate.wait()
    os.kill(lease_pid(cli), signal.SIGKILL)
    document = until(
        lambda: (found := cli.json("status", "analysis"))["state"] == "interrupted" and found, "the end"
    )
    assert document["resume"] == "drawbar resume analysis.1"
    cli("cancel", "analysis")


def test_ctrl_c_cancels(cli, gate):
    cli.analysis({"only": [f"echo $$$$ > pid; {gate.command}"]})
    terminal = Terminal(cli, "run", "analysis")
    gate.wait()
    terminal.type("\x03")
    assert terminal.wait() == 130
    terminal.close()
    assert "a second Ctrl-C" in terminal.text
    assert "analysis.1: stopped" in terminal.text
    assert state_of(cli) == "stopped"
    assert gone(int((cli.home / "runs/analysis.1/workspace/pid").read_text()))


def test_a_second_ctrl_c_leaves_the_jobs_alive(cli, gate):
    cli.analysis({"only": [f"trap '' TERM; {gate.command}; echo x >> ../ledger"]})
    terminal = Terminal(cli, "run", "analysis")
    gate.wait()
    terminal.type("\x03")
    terminal.read_until("a second Ctrl-C")
    terminal.type("\x03")
    assert terminal.wait() == 130
    terminal.close()
    assert "drawbar resume analysis.1" in terminal.text
    assert state_of(cli) == "interrupted"
    gate.open()
    cli("cancel", "analysis")


def test_a_closed_terminal_leaves_jobs_and_detached_runs_alive(cli, gate):
    cli.analysis({"only": [f"{gate.command}; echo x >> ../ledger"]})
    terminal = Terminal(cli, "run", "analysis", "--detach")
    assert terminal.wait() == 0
    gate.wait()
    terminal.close()
    assert state_of(cli) == "running"
    gate.open()
    cli("wait", "analysis")
    terminal = Terminal(cli, "run", "analysis")
    gate.wait()
    pid = lease_pid(cli, "analysis.2")
    terminal.close()
    assert terminal.wait() == 130
    assert gone(pid)
    assert state_of(cli, "analysis.2") == "interrupted"
    gate.open()
    cli("resume", "analysis.2")
    assert (cli.home / "runs/analysis.2/ledger").read_text() == "x\n"


def test_a_terminal_shows_live_progress_and_is_left_clean(cli, gate):
    cli.analysis({"first": ["true"], "second": [gate.command]}, outputs=[])
    terminal = Terminal(cli, "run", "analysis")
    gate.wait()
    terminal.read_until("second")
    gate.open()
    assert terminal.wait() == 0
    terminal.close()
    assert "1/2" in terminal.text
    assert "\x1b[?25h" in terminal.text, "the cursor is shown again"
    assert terminal.text.rstrip().endswith("analysis.1: finished")


def test_a_run_whose_error_stream_is_closed_goes_on(cli, gate):
    cli.analysis({"first": [gate.command], "second": ["echo 2 > b"]}, outputs=["b"])
    process = cli.start("run", "analysis")
    gate.wait()
    process.stderr.close()
    gate.open()
    assert process.stdout.read() == ""
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert state_of(cli) == "finished"


def test_many_jobs_are_summed_up(cli):
    cli.analysis({f"s{number}": ["true"] for number in range(130)})
    done = cli("run", "analysis")
    assert len(done.stderr.splitlines()) < 110
    assert "130 finished" in cli("status", "analysis").stdout


def test_two_runs_at_once_do_not_meet(cli, gate):
    cli.analysis({"only": [gate.command]})
    for _ in range(2):
        cli("run", "analysis", "--detach")
    gate.wait()
    gate.wait()
    gate.open()
    gate.open()
    cli("wait", "analysis.1", "analysis.2")
    assert {row["state"] for row in cli.json("list")} == {"finished"}


def test_a_run_that_ended_is_not_waited_for(cli):
    cli.analysis({"only": ["exit 3"]})
    cli("run", "analysis", status=1)
    assert "analysis.1: failed" in cli("wait", "analysis", status=1).stderr
