"""The conformance kit of engines: what every engine must do right, as tests to inherit.

    class TestLines(EngineContract):
        engine_libraries = ("cwltool",)

        @pytest.fixture
        def engine(self): return LinesEngine()

        @pytest.fixture
        def two_steps(self): return Sample(files={"a.lines": "..."}, file="a.lines", outputs={"out": "42\\n"})

        # and failing, broken, edits; scattered and incomplete where the language has such things

Every engine call happens in a child process with a deadline, as drawbar itself does it, so an
engine may change directory, keep global state, or hang. Jobs run through `MemoryJobs`.
"""

# ruff: noqa: D102 (the name of each check says what it checks)

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from drawbar.backend import API
from drawbar.engine import Engine, EngineFeature, Source, WorkflowInfo
from drawbar.errors import SpecError
from drawbar.testing.child import Address, address_of, find, forked, fresh
from drawbar.testing.memory import Call, MemoryJobs, snapshot
from drawbar.testing.sample import KILL_POINTS, Outcome, Sample, drive

__all__ = ["EngineContract", "Sample"]

T = TypeVar("T")


FOREIGN: Mapping[str, tuple[str, bytes]] = {
    "cwl": ("tool.cwl", b"cwlVersion: v1.2\nclass: CommandLineTool\ninputs: []\noutputs: []\n"),
    "cwl in YAML": ("flow.yaml", b"cwlVersion: v1.2\nclass: Workflow\nsteps: {a: {run: a.cwl, in: []}}\n"),
    "snakemake": ("Snakefile", b"rule all:\n    output: 'a'\n    shell: 'touch a'\n"),
    "yadage": ("workflow.yml", b"stages:\n- name: a\n  scheduler: {scheduler_type: singlestep-stage}\n"),
    "serial": ("serial.yaml", b"steps:\n- environment: python:3.12\n  commands: [date]\n"),
    "reana": ("reana.yaml", b"workflow:\n  type: serial\n  specification: {steps: []}\n"),
    "text": ("notes.txt", b"buy milk\n"),
    "an empty file": ("empty.yaml", b""),
    "no YAML": ("broken.yml", b"a: [b\n\t}"),
    "no text": ("binary.yaml", bytes(range(256))),
    "JSON": ("data.json", b'{"steps": 3}'),
}
"""Files that an engine must not take for its own, by the language that they are in."""

_SPAWNS = (
    "subprocess.Popen",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "pty.spawn",
    "socket.connect",
)


class EngineContract:
    """The checks. Inherit, set what differs, give the fixtures."""

    engine_libraries: tuple[str, ...] = ()
    """Packages that importing the adapter must not import."""
    deadline_s: float = 120.0
    """After this time an engine counts as hanging."""

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine, made without arguments."""
        raise NotImplementedError("give the fixture `engine`")

    @pytest.fixture
    def two_steps(self) -> Sample:
        """A workflow file whose second step needs what the first one made."""
        raise NotImplementedError("give the fixture `two_steps`")

    @pytest.fixture
    def failing(self) -> Sample:
        """A first step that succeeds, a second one whose command fails (`step`), and one that needs it."""
        raise NotImplementedError("give the fixture `failing`")

    @pytest.fixture
    def broken(self) -> Sample:
        """A workflow with a mistake that `inspect` finds (`problem`, `line`)."""
        raise NotImplementedError("give the fixture `broken`")

    @pytest.fixture
    def edits(self) -> Mapping[str, Sample]:
        """`two_steps` with another "command", another "input" content, and (optional) "environment"."""
        raise NotImplementedError("give the fixture `edits`")

    @pytest.fixture
    def scattered(self) -> Sample | None:
        """A workflow with several jobs in flight at once, where the language has such a thing."""
        return None

    @pytest.fixture
    def incomplete(self) -> Sample | None:
        """A step (`step`) whose command succeeds without making what it promised, where that can be."""
        return None

    @pytest.fixture
    def hostile(self) -> Sample | None:
        """A workflow that makes a file when it is parsed, where the language allows that."""
        return None

    # What the class says.

    def test_says_what_it_is(self, engine: Engine) -> None:
        assert isinstance(engine.name, str)
        assert engine.name
        assert engine.api == API, f"made for plugin API {engine.api}; this drawbar speaks {API}"
        assert all(isinstance(each, EngineFeature) for each in engine.features)
        for each in engine.Options.declared():
            assert each.help, f"option {each.name} has no help text"

    def test_importing_the_adapter_imports_no_engine_library(self, engine: Engine) -> None:
        modules = fresh(_modules, address_of(type(engine)), deadline_s=self.deadline_s)
        found = sorted({name.partition(".")[0] for name in modules} & set(self.engine_libraries))
        assert not found, f"importing {type(engine).__module__} imports {', '.join(found)}"

    # Recognising and inspecting.

    def test_recognises_its_own_files_and_no_others(
        self, engine: Engine, two_steps: Sample, tmp_path: Path
    ) -> None:
        file = two_steps.write(tmp_path / "own").file
        assert file is not None, "the sample two_steps needs a workflow file"
        others = tmp_path / "others"
        (others / "directory.yaml").mkdir(parents=True)
        paths = {"a directory": others / "directory.yaml", "nothing": others / "missing.yaml"}
        for language, (name, content) in FOREIGN.items():
            (others / name).write_bytes(content)
            if engine.name not in language.split():
                paths[language] = others / name
        own, claimed = self._in_child(
            lambda: (
                engine.recognises(file),
                [each for each in paths if engine.recognises(paths[each])],
            )
        )
        assert own, f"does not recognise {two_steps.file}"
        assert not claimed, f"claims a file that is not in its language: {', '.join(claimed)}"

    def test_recognises_executes_nothing(
        self, engine: Engine, two_steps: Sample, hostile: Sample | None, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(each for each in (two_steps, hostile) if each is not None):
            source = sample.write(tmp_path / str(number))
            if source.file is not None:
                self._quietly(source.root, partial(engine.recognises, source.file))

    def test_inspect_finds_the_steps(self, engine: Engine, two_steps: Sample, tmp_path: Path) -> None:
        info = self._inspect(engine, two_steps.write(tmp_path))
        names = [step.name for step in info.steps]
        assert len(names) >= 2, f"two steps, but inspect found {names}"
        assert len(set(names)) == len(names), f"steps must have different names: {names}"
        for step in info.steps:
            unknown = set(step.depends_on) - set(names)
            assert not unknown, f"step {step.name} depends on {unknown}, which are no steps"
        assert any(step.depends_on for step in info.steps), "the second step depends on the first"

    def test_inspect_executes_nothing(
        self, engine: Engine, two_steps: Sample, hostile: Sample | None, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(each for each in (two_steps, hostile) if each is not None):
            free = EngineFeature.INSPECT_WITHOUT_EXECUTION in engine.features
            source = sample.write(tmp_path / str(number), allow_execution=free and sample is two_steps)
            self._quietly(source.root, partial(engine.inspect, source))

    def test_inspect_finds_the_problem_with_file_and_line(
        self, engine: Engine, broken: Sample, tmp_path: Path
    ) -> None:
        source = broken.write(tmp_path)

        def problems() -> list[tuple[str, str | None, int | None]]:
            try:
                engine.inspect(source)
            except SpecError as error:
                return [(each.message, each.file, each.line) for each in error.problems]
            return []

        found = self._in_child(problems)
        assert found, "inspect must raise SpecError for a broken workflow"
        matching = [each for each in found if (broken.problem or "") in each[0]]
        assert matching, f"no problem says {broken.problem!r}: {found}"
        assert all(file for _, file, _ in matching), f"a problem names its file: {matching}"
        assert broken.line in [line for _, _, line in matching], f"expected line {broken.line}: {matching}"

    # Executing.

    def test_execute_makes_the_outputs(self, engine: Engine, two_steps: Sample, tmp_path: Path) -> None:
        workspace = tmp_path / "workspace"
        self._execute(engine, two_steps, workspace).finished()
        for name, content in two_steps.outputs.items():
            assert (workspace / name).is_file(), f"{name} was not made"
            assert content is None or (workspace / name).read_text() == content

    def test_keeps_to_the_protocol(self, samples: list[Sample], engine: Engine, tmp_path: Path) -> None:
        for number, sample in enumerate(samples):
            violations = self._execute(engine, sample, tmp_path / str(number)).jobs.violations
            assert not violations, "; ".join(violations)

    def test_settles_every_job(self, samples: list[Sample], engine: Engine, tmp_path: Path) -> None:
        for number, sample in enumerate(samples):
            jobs = self._execute(engine, sample, tmp_path / str(number)).finished()
            jobs.finish()
            self._check_settled(jobs)

    def test_specs_stay_in_the_workspace(self, samples: list[Sample], engine: Engine, tmp_path: Path) -> None:
        for number, sample in enumerate(samples):
            workspace = tmp_path / str(number)
            jobs = self._execute(engine, sample, workspace).finished()
            roots = (workspace, jobs.directory("any").parent)
            for spec in jobs.specs.values():
                for what in ("directory", "stdin", "stdout", "stderr", "collection_root"):
                    self._check_inside(roots, spec.identity, what, getattr(spec, what))
                for path in spec.outputs:
                    self._check_inside(roots, spec.identity, "output", path)

    def test_identities_and_keys_do_not_depend_on_the_order_of_ends(
        self, samples: list[Sample], engine: Engine, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(samples):
            keys = [
                self._execute(engine, sample, tmp_path / f"{number}-{seed}", seed=seed).finished().keys
                for seed in range(3)
            ]
            assert keys[0], "no job was submitted"
            for other in keys[1:]:
                self._check_same(keys[0], other, "another order of ends")

    def test_identities_and_keys_do_not_depend_on_the_hash_seed(
        self, samples: list[Sample], engine: Engine, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(samples):
            keys = []
            for seed in ("1", "2", "3"):
                source = sample.write(tmp_path / f"{number}-{seed}")
                arguments = (_keys, address_of(type(engine)), source)
                keys.append(fresh(*arguments, hash_seed=seed, deadline_s=self.deadline_s))
            for other in keys[1:]:
                self._check_same(keys[0], other, "another PYTHONHASHSEED")

    def test_keys_do_not_depend_on_the_workspace(
        self, samples: list[Sample], engine: Engine, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(samples):
            first = self._execute(engine, sample, tmp_path / f"a{number}").finished()
            second = self._execute(
                engine, sample, tmp_path / f"longer/b{number}", run_id="another"
            ).finished()
            self._check_same(first.keys, second.keys, "another workspace and run")

    @pytest.mark.parametrize("what", ["command", "input", "environment"])
    def test_an_edit_changes_a_key(
        self, engine: Engine, two_steps: Sample, edits: Mapping[str, Sample], what: str, tmp_path: Path
    ) -> None:
        if what == "environment" and what not in edits:
            pytest.skip("no such edit was given")
        first = self._execute(engine, two_steps, tmp_path / "workspace").finished()
        again = self._execute(engine, edits[what], tmp_path / "workspace", after=first).finished()
        assert again.executed, f"after an edit of the {what}, the old results were taken"
        assert first.keys != again.keys
        for name, content in edits[what].outputs.items():
            assert content is None or (tmp_path / "workspace" / name).read_text() == content

    # Replaying.

    def test_replay_submits_nothing(self, samples: list[Sample], engine: Engine, tmp_path: Path) -> None:
        for number, sample in enumerate(samples):
            workspace = tmp_path / str(number)
            first = self._execute(engine, sample, workspace).finished()
            made = {path: path.stat() for path in first.memory.files if path.is_file()}
            again = self._execute(engine, sample, workspace, after=first, seed=1).finished()
            assert not again.submitted, (
                f"these had ended and were asked for again: {again.submitted}"
                " (a side effect before the lookup, or an unstable identity or key)"
            )
            for path, status in made.items():
                assert path.is_file(), f"replay removed {path}"
                assert path.stat().st_mtime_ns == status.st_mtime_ns, f"replay changed {path}"

    def test_replay_after_a_kill_runs_only_the_rest(
        self, samples: list[Sample], engine: Engine, tmp_path: Path
    ) -> None:
        for number, sample in enumerate(samples):
            whole = self._execute(engine, sample, tmp_path / f"{number}").finished()
            for place in range(sum(call.method in KILL_POINTS for call in whole.calls)):
                workspace = tmp_path / f"{number}-{place}"
                killed = self._execute(engine, sample, workspace, kill_at=place)
                assert killed.killed, f"without an order of ends, it asked for less: {killed.error}"
                again = self._execute(engine, sample, workspace, after=killed.jobs).finished()
                ran = sorted(killed.jobs.executed + again.executed)
                assert ran == sorted(whole.executed), (
                    f"killed at call {place}, these ran: {ran}, and not: {whole.executed}"
                )
                self._check_settled(again)
                # an engine that knows by itself what has ended need not ask for it again
                self._check_same(whole.keys, {**killed.jobs.keys, **again.keys}, "a kill and a replay")

    # Failing and stopping.

    def test_a_failed_command_fails_its_step(self, engine: Engine, failing: Sample, tmp_path: Path) -> None:
        outcome = self._execute(engine, failing, tmp_path / "workspace")
        outcome.broke()
        assert failing.step, "the sample failing needs the name of the step"
        assert outcome.step == failing.step, f"StepFailed names {outcome.step!r}, not {failing.step!r}"
        message = outcome.failure or ""
        assert failing.step in message, f"the message does not name the step: {message}"

    def test_asks_for_no_job_after_a_failure(self, engine: Engine, failing: Sample, tmp_path: Path) -> None:
        jobs = self._execute(engine, failing, tmp_path / "workspace").broke()
        self._check_quiet_after_failure(jobs.calls)

    def test_a_failed_job_is_run_again_and_no_other(
        self, engine: Engine, failing: Sample, tmp_path: Path
    ) -> None:
        first = self._execute(engine, failing, tmp_path / "workspace").broke()
        again = self._execute(engine, failing, tmp_path / "workspace", after=first).broke()
        failed = {call.identity for call in first.calls if call.method == "failed"}
        assert set(again.executed) == failed, f"ran again: {again.executed}, failed: {failed}"

    def test_a_rejected_job_is_not_remembered(
        self, engine: Engine, incomplete: Sample | None, tmp_path: Path
    ) -> None:
        if incomplete is None:
            pytest.skip("this language has no such job")
        outcome = self._execute(engine, incomplete, tmp_path / "workspace")
        first = outcome.broke()
        assert outcome.step == incomplete.step
        rejected = {call.identity for call in first.calls if call.method == "reject"}
        assert rejected, "a job that did not make its output must be rejected"
        again = self._execute(engine, incomplete, tmp_path / "workspace", after=first).broke()
        assert rejected <= set(again.executed), "a rejected job was taken for a good one"

    def test_ends_when_it_is_stopped(self, samples: list[Sample], engine: Engine, tmp_path: Path) -> None:
        for number, sample in enumerate(samples):
            jobs = self._execute(engine, sample, tmp_path / str(number), stop_after=1).broke()
            self._check_quiet_after_failure(jobs.calls)

    def test_stops_after_the_named_step(self, engine: Engine, two_steps: Sample, tmp_path: Path) -> None:
        if EngineFeature.UNTIL not in engine.features:
            pytest.skip("this engine cannot stop after a step")
        source = two_steps.write(tmp_path / "inspected")
        first = next(step for step in self._inspect(engine, source).steps if not step.depends_on)
        jobs = self._execute(engine, two_steps, tmp_path / "workspace", until=first.name).finished()
        steps = sorted({spec.step for spec in jobs.specs.values()})
        assert steps == [first.name], f"until {first.name}, but jobs of {', '.join(steps)}"

    # How it is done.

    @pytest.fixture
    def samples(self, two_steps: Sample, scattered: Sample | None) -> list[Sample]:
        """The workflows that come to a good end."""
        return [two_steps] if scattered is None else [two_steps, scattered]

    def _inspect(self, engine: Engine, source: Source) -> WorkflowInfo:
        return self._in_child(lambda: engine.inspect(source))

    def _execute(
        self,
        engine: Engine,
        sample: Sample,
        workspace: Path,
        *,
        after: MemoryJobs | None = None,
        kill_at: int | None = None,
        until: str | None = None,
        **arguments: Any,
    ) -> Outcome:
        """Execute a sample in a child process; with `after`, as a restart of what that client remembers.

        With `kill_at`, the engine process dies at that call of submit or accept, before it takes effect.
        """
        source = sample.write(workspace, until=until)
        jobs = after.restarted(**arguments) if after else MemoryJobs(workspace, **arguments)
        return forked(lambda leave: drive(engine, source, jobs, kill_at, leave), self.deadline_s)

    def _quietly(self, root: Path, work: Callable[[], object]) -> None:
        """Do something in a child that must start no process and change nothing in `root`."""
        before = snapshot(root)

        def watched() -> list[str]:
            seen: list[str] = []
            sys.addaudithook(lambda event, _: seen.append(event) if event in _SPAWNS else None)
            work()
            return seen

        events = self._in_child(watched)
        assert not events, f"something was started: {', '.join(events)}"
        assert snapshot(root) == before, f"files in {root} were changed"

    def _in_child(self, work: Callable[[], T]) -> T:
        return forked(lambda _: work(), self.deadline_s)

    @staticmethod
    def _check_settled(jobs: MemoryJobs) -> None:
        ended = [call.identity for call in jobs.calls if call.method == "succeeded"]
        settled = [call.identity for call in jobs.calls if call.method in ("accept", "reject")]
        assert sorted(ended) == sorted(settled), f"ended: {ended}, accepted or rejected: {settled}"

    @staticmethod
    def _check_inside(roots: tuple[Path, ...], identity: str, what: str, path: str | None) -> None:
        inside = path is None or any(Path(os.path.normpath(path)).is_relative_to(root) for root in roots)
        assert inside, f"job {identity}: {what} {path} is neither in the workspace nor in a job's directory"

    @staticmethod
    def _check_same(keys: Mapping[str, str], other: Mapping[str, str], why: str) -> None:
        assert sorted(keys) == sorted(other), f"identities differ after {why}"
        changed = [identity for identity in keys if keys[identity] != other[identity]]
        assert not changed, f"keys differ after {why}: {', '.join(changed)}"

    @staticmethod
    def _check_quiet_after_failure(calls: list[Call]) -> None:
        failed = [number for number, call in enumerate(calls) if call.method == "failed"]
        assert failed, "no job failed"
        later = [call.identity for call in calls[failed[0] :] if call.method == "submit"]
        repeated = {calls[number].identity for number in failed}
        assert set(later) <= repeated, f"asked for after a failure: {', '.join(later)}"


def _modules(address: Address) -> list[str]:
    find(address)
    return list(sys.modules)


def _keys(address: Address, source: Source) -> dict[str, str]:
    jobs = MemoryJobs(source.root)
    find(address)().execute(source, jobs)
    return jobs.keys
