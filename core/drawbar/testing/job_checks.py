"""Checks of one job and its result: the part of the backend contract that every user notices."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drawbar.backend import Attempt, Refused
from drawbar.model import INFRASTRUCTURE, TRANSITIONS, JobResult, Reason
from drawbar.testing.driver import Driver, broken, expect

ODD_TEXTS = (
    "",
    " two  spaces ",
    "-n",
    "--",
    "'single' \"double\"",
    "$(echo run) `echo run` $HOME ${PATH}",
    "line\nline\r\n\ttab",
    "back\\slash \\n \\",
    "*? [a-z] {a,b} ~ !",
    "; & | < > # %s %d",
    "größe π 語 🚃",
    "{{braces}} <angles>",
)
"""Texts that must arrive in a job byte for byte, as arguments and in variables."""


class JobChecks:
    """For `drawbar.testing.BackendContract`."""

    # A job and its result

    def test_a_job_runs_and_its_result_is_whole(self, driver: Driver) -> None:
        """A job that succeeds is finished, and each field of its result is true or None."""
        attempt = driver.shell("echo out; echo err >&2; : > made")
        driver.run(attempt)
        result = driver.end(attempt)
        expect(result.ok and result.exit_code == 0, "a command that exits with 0 succeeded", repr(result))
        expect((driver.directory / "made").exists(), "a job runs in the workspace")
        _whole(result)
        for path, text in ((result.stdout, "out\n"), (result.stderr, "err\n")):
            if path is not None:
                expect(
                    Path(path).read_text() == text,
                    "the log paths of a result hold what the job printed",
                    f"{path}: {Path(path).read_text()!r}",
                )

    def test_every_job_ends(self, driver: Driver) -> None:
        """Jobs that succeed, fail and are killed all end."""
        attempts = [driver.shell("exit 0"), driver.shell("exit 1"), driver.shell("kill -9 $$")]
        driver.run(*attempts)
        for attempt in attempts:
            driver.end(attempt)

    def test_exit_codes_are_true(self, driver: Driver) -> None:
        """A failed command is a result with its own exit code."""
        codes = (1, 2, 3, 64, 126, 127, 255)
        attempts = [driver.shell(f"exit {code}") for code in codes]
        driver.run(*attempts)
        for attempt, code in zip(attempts, codes, strict=True):
            result = driver.end(attempt)
            expect(
                (result.exit_code, result.reason) == (code, Reason.EXIT_CODE),
                "a failed command has its true exit code, and the reason exit-code",
                f"exit {code} was told as {result}",
            )

    def test_success_and_temporary_codes_are_the_jobs_own(self, driver: Driver) -> None:
        """Which codes are a success or temporary is what the job says."""
        fields: dict[str, Any] = {"success_codes": (0, 3), "temporary_codes": (4,)}
        for code, reason in ((0, None), (3, None), (4, Reason.TEMPORARY), (5, Reason.EXIT_CODE)):
            attempt = driver.shell(f"exit {code}", **fields)
            driver.run(attempt)
            result = driver.end(attempt)
            expect(
                (result.exit_code, result.reason) == (code, reason),
                "success_codes and temporary_codes of the job decide what an exit code means",
                f"exit {code} was told as {result}",
            )

    def test_zero_need_not_be_a_success(self, driver: Driver) -> None:
        """A job may say that 0 is no success."""
        attempt = driver.shell("exit 0", success_codes=(1,))
        driver.run(attempt)
        result = driver.end(attempt)
        expect(
            result.reason is Reason.EXIT_CODE,
            "success_codes of the job decide, also about 0",
            repr(result),
        )

    def test_a_killed_job_is_told_without_guessing(self, driver: Driver) -> None:
        """A signal from elsewhere is `killed`, or the code that a shell gives it; never out-of-memory."""
        attempt = driver.shell("kill -9 $$")
        driver.run(attempt)
        result = driver.end(attempt)
        expect(
            result.reason is Reason.KILLED or (result.reason, result.exit_code) == (Reason.EXIT_CODE, 137),
            "a job that a signal ended is killed; out-of-memory is said only with proof",
            repr(result),
        )

    def test_a_command_that_is_not_there_fails(self, driver: Driver) -> None:
        """It is the user's mistake, and not one of the machine that a retry could mend."""
        attempt = driver.attempt("/nowhere/no-such-command")
        (answer,) = driver.submit(attempt)
        if isinstance(answer, Refused):
            return
        result = driver.end(attempt)
        expect(
            not result.ok and result.reason not in INFRASTRUCTURE,
            "a command that does not exist fails, as the user's mistake",
            repr(result),
        )

    # What arrives in the job

    def test_arguments_arrive_byte_for_byte(self, driver: Driver) -> None:
        """No shell, script or template changes an argument."""
        out = driver.directory / "out"
        attempt = driver.shell('printf "%s\\0" "$@"', *ODD_TEXTS, stdout=str(out))
        driver.run(attempt)
        driver.end(attempt)
        _same_texts(out, "argv arrives byte for byte")

    def test_environment_arrives_byte_for_byte(self, driver: Driver) -> None:
        """Every variable of the specification is in the job's environment, unchanged."""
        out = driver.directory / "out"
        environment = {f"KIT_{number}": text for number, text in enumerate(ODD_TEXTS)}
        names = " ".join(f'"${name}"' for name in environment)
        attempt = driver.shell(f'printf "%s\\0" {names}', environment=environment, stdout=str(out))
        driver.run(attempt)
        driver.end(attempt)
        _same_texts(out, "the environment arrives byte for byte")

    def test_the_job_runs_in_its_directory(self, driver: Driver) -> None:
        """Also when the directory has an awkward name."""
        directory = driver.directory / "it's a $dir; with 'quotes'"
        directory.mkdir()
        attempt = driver.shell("pwd > here", directory=str(directory))
        driver.run(attempt)
        result = driver.end(attempt)
        here = directory / "here"
        expect(
            here.exists() and here.read_text() == f"{directory}\n",
            "the job runs in its directory",
            repr(result),
        )

    def test_standard_streams_are_files(self, driver: Driver) -> None:
        """stdin, stdout and stderr are the files that the job names, and bytes are kept."""
        content = bytes(range(256)) * 300
        source, out, err = (driver.directory / name for name in ("in put", "out put", "err put"))
        source.write_bytes(content)
        attempt = driver.shell("cat; echo trouble >&2", stdin=str(source), stdout=str(out), stderr=str(err))
        driver.run(attempt)
        result = driver.end(attempt)
        expect(result.ok, "a job reads its standard input from the file that it names", repr(result))
        expect(
            out.exists() and out.read_bytes() == content,
            "standard output goes to the file that the job names, byte for byte",
        )
        expect(
            err.exists() and err.read_text() == "trouble\n",
            "standard error goes to the file that the job names",
        )

    def test_without_a_file_standard_input_is_empty(self, driver: Driver) -> None:
        """A job that reads what nobody gives it ends."""
        attempt = driver.shell('[ -z "$(cat)" ]')
        driver.run(attempt)
        result = driver.end(attempt)
        expect(result.ok, "standard input is empty when the job names no file", repr(result))

    # Events

    def test_states_never_go_back(self, driver: Driver) -> None:
        """States may be skipped and repeated, and follow the legal transitions."""
        attempts = self._ended_jobs(driver)
        for attempt in attempts:
            states = [status.state for status in driver.watch.of(attempt)]
            for before, after in itertools.pairwise(states):
                expect(
                    before.terminal or after is before or after in TRANSITIONS[before],
                    "states never go back within an attempt",
                    f"told: {', '.join(states)}",
                )

    def test_a_job_ends_once(self, driver: Driver) -> None:
        """After its end nothing else is told of a job."""
        attempts = self._ended_jobs(driver)
        for attempt in attempts:
            statuses = driver.watch.of(attempt)
            first = next(index for index, status in enumerate(statuses) if status.state.terminal)
            end = (statuses[first].state, statuses[first].result)
            expect(
                all((status.state, status.result) == end for status in statuses[first:]),
                "a job has one end, and nothing is told of it afterwards",
                f"told: {', '.join(str(status.state) for status in statuses)}",
            )

    def test_only_known_jobs_are_told_of(self, driver: Driver) -> None:
        """Events carry the tags that were submitted."""
        attempts = self._ended_jobs(driver)
        strangers = {status.tag for status in driver.watch.statuses} - {each.tag for each in attempts}
        expect(not strangers, "events carry the tags that were submitted", f"unknown: {sorted(strangers)}")

    def _ended_jobs(self, driver: Driver) -> Sequence[Attempt]:
        attempts = [driver.shell(f"exit {code % 2}") for code in range(6)]
        driver.run(*attempts)
        for attempt in attempts:
            driver.end(attempt)
        fence = driver.shell("exit 0")  # what comes late about the others comes before its end
        driver.run(fence)
        driver.end(fence)
        return [*attempts, fence]


def _same_texts(path: Path, sentence: str) -> None:
    if not path.exists():
        broken(sentence, "the job printed nothing")
    arrived = path.read_bytes().split(b"\0")[:-1]
    sent = [os.fsencode(text) for text in ODD_TEXTS]
    different = [f"{a!r} arrived as {b!r}" for a, b in zip(sent, arrived, strict=False) if a != b]
    expect(
        arrived == sent, sentence, "; ".join(different) or f"{len(sent)} were sent, {len(arrived)} arrived"
    )


def _whole(result: JobResult) -> None:
    """Each field of a result is of its unit, or None."""
    times = [each for each in (result.started, result.finished) if each is not None]
    expect(
        all(math.isfinite(each) and each > 1e9 for each in times) and times == sorted(times),
        "times are seconds since the epoch, and a job starts before it ends",
        repr(result),
    )
    for value in (result.cpu_s, result.peak_memory_mib):
        expect(
            value is None or (math.isfinite(value) and value >= 0),
            "what is measured is not negative, and None when unknown",
            repr(result),
        )
    for text in (result.host, result.native_id):
        expect(text is None or text, "what is unknown is None, not empty", repr(result))
