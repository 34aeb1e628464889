"""The conformance kit of engines finds what is wrong with wrong engines.

Each is the engine of `examples/third-party-engine` with one thing wrong, and fails the check that is
named for it.
"""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import time
import tomllib
import uuid
import wave  # noqa: F401 (stands for the library of an engine that imports it too early)
from dataclasses import replace
from pathlib import Path

import pytest
from drawbar.engine import Source, StepFailed, WorkflowInfo
from drawbar.errors import Problem, SpecError
from drawbar.model import JobResult, Outputs
from drawbar.testing.child import ChildFailed, forked
from drawbar.testing.engine import EngineContract, Sample

EXAMPLE = Path(__file__).parents[2] / "examples" / "third-party-engine" / "drawbar_recipes.py"


def example():
    if "drawbar_recipes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("drawbar_recipes", EXAMPLE)
        sys.modules["drawbar_recipes"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["drawbar_recipes"]


RecipesEngine = example().RecipesEngine

FILES = {"a.recipes": "b: a\n    tr a-z A-Z < a > b\nc: b\n    rev b > c\n", "a": "word\n"}
TWO_STEPS = Sample(files=FILES, file="a.recipes", outputs={"c": "DROW\n"})
BROKEN = "a:\n    touch a\nb: c\n    touch b\n"
SAMPLES = {
    "two_steps": TWO_STEPS,
    "edits": {
        "command": replace(
            TWO_STEPS,
            files={**FILES, "a.recipes": FILES["a.recipes"].replace("rev b", "cat b")},
            outputs={"c": "WORD\n"},
        ),
        "input": replace(TWO_STEPS, files={**FILES, "a": "new\n"}, outputs={"c": "WEN\n"}),
    },
    "scattered": Sample(
        files={"a.recipes": "".join(f"part{n}:\n    echo {n} > part{n}\n" for n in (1, 2, 3))},
        file="a.recipes",
        outputs={"part2": "2\n"},
    ),
    "failing": Sample(
        files={"a.recipes": "a:\n    touch a\nb: a\n    exit 3\nc: b\n    touch c\n"},
        file="a.recipes",
        step="b",
    ),
    "incomplete": Sample(files={"a.recipes": "a:\n    true\n"}, file="a.recipes", step="a"),
    "broken": Sample(files={"a.recipes": BROKEN}, file="a.recipes", problem="no recipe makes 'c'", line=3),
    "hostile": None,
}
SAMPLES["samples"] = [SAMPLES["two_steps"], SAMPLES["scattered"]]


class Contract(EngineContract):
    engine_libraries = ("wave",)


CHECKS = sorted(
    f"{name}[{what}]" if "what" in inspect.signature(check).parameters else name
    for name, check in inspect.getmembers(Contract, inspect.isfunction)
    if name.startswith("test_")
    for what in (("command", "input") if "what" in inspect.signature(check).parameters else ("",))
)


def run(check, engine, tmp_path, deadline_s=60.0):
    """Run one check of the kit as pytest would."""
    contract = Contract()
    contract.deadline_s = deadline_s
    name, _, what = check.rstrip("]").partition("[")
    values = {**SAMPLES, "engine": engine, "tmp_path": tmp_path, "what": what}
    method = getattr(contract, name)
    method(**{parameter: values[parameter] for parameter in inspect.signature(method).parameters})


class Tampering:
    """A job client that passes everything on, but for what a subclass changes."""

    def __init__(self, jobs):
        self._jobs = jobs

    def __getattr__(self, name):
        return getattr(self._jobs, name)


class Tampered(RecipesEngine):
    """The example's engine, given a client that misuses the real one on its behalf."""

    Client: type[Tampering]

    def execute(self, source, jobs):
        return super().execute(source, self.Client(jobs))


class Renaming(Tampering):
    """Submits jobs under other identities, and answers as if under their own."""

    def submit(self, specs, prepare=None):
        self.own = getattr(self, "own", {})
        renamed = [replace(spec, identity=self.rename(spec)) for spec in specs]
        self.own.update({new.identity: old.identity for new, old in zip(renamed, specs, strict=True)})
        return self._jobs.submit(renamed, prepare)

    def wait(self):
        self.ended = self._jobs.wait()
        if self.ended is None:
            return None
        identity = self.own[self.ended.ticket.identity]
        return replace(self.ended, ticket=replace(self.ended.ticket, identity=identity))

    def accept(self, ticket, outputs=None, value=None):
        self._jobs.accept(self.ended.ticket, outputs, value)


class Respecifying(Tampering):
    """Submits jobs with other specs."""

    def submit(self, specs, prepare=None):
        return self._jobs.submit([self.change(spec) for spec in specs], prepare)


class RandomIdentity(Tampered):
    class Client(Renaming):
        def rename(self, spec):
            return str(uuid.uuid4())


class HashedIdentity(Tampered):
    class Client(Renaming):
        def rename(self, spec):
            return str(hash(spec.identity))


class OneIdentity(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, identity=spec.identity[:-1] or spec.identity)


class TimeInTheKey(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, canonical=time.time_ns())


class WorkspaceInTheKey(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, canonical=[spec.canonical, spec.directory])


class CommandNotInTheKey(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, canonical="a recipe")


class InputsNotInTheKey(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, inputs=())


class LeavesTheWorkspace(Tampered):
    class Client(Respecifying):
        def change(self, spec):
            return replace(spec, argv=("sh", "-c", f"cd {spec.directory} && {spec.argv[2]}"), directory="/")


class PreparesInItsDirectory(Tampered):
    class Client(Tampering):
        def submit(self, specs, prepare=None):
            for spec in specs:
                self._jobs.directory(spec.identity).mkdir(parents=True, exist_ok=True)
            return self._jobs.submit(specs, prepare)


class ClearsBeforeTheLookup(Tampered):
    class Client(Tampering):
        def submit(self, specs, prepare=None):
            for spec in specs:
                Path(spec.outputs[0]).unlink(missing_ok=True)
            return self._jobs.submit(specs, prepare)


class ForgetsToAccept(Tampered):
    class Client(Tampering):
        def accept(self, ticket, outputs=None, value=None):
            pass


class AcceptsTwice(Tampered):
    class Client(Tampering):
        def accept(self, ticket, outputs=None, value=None):
            self._jobs.accept(ticket, outputs, value)
            self._jobs.accept(ticket, outputs, value)


class AcceptsAnything(Tampered):
    class Client(Tampering):
        def reject(self, ticket, message, reason=None):
            self._jobs.accept(ticket, outputs=())


class HandsInTheInput(Tampered):
    class Client(Tampering):
        def accept(self, ticket, outputs=None, value=None):
            self._jobs.accept(ticket, outputs=[self._jobs.workspace / "a.recipes"])


class ForgetsWhatHasEnded(Tampered):
    """Takes up every start after the first as if nothing had been run."""

    class Client(Renaming):
        def rename(self, spec):
            return f"{spec.identity}-{len(self._jobs.memory.jobs)}"


class FailsWithAnotherError(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed as failure:
            raise RuntimeError("something went wrong") from failure


class BlamesAnotherStep(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed as failure:
            raise StepFailed("workflow", str(failure)) from failure


class ReportsSuccess(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed:
            return Outputs()


class HangsAfterAFailure(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed:
            while True:
                time.sleep(60)


class GoesOnAfterAFailure(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed:
            spec = next(iter(jobs.specs.values()))
            jobs.submit([replace(spec, identity="more", outputs=())])
            jobs.accept(jobs.wait().ticket)
            raise


class TakesAStopForAnEnd(RecipesEngine):
    def execute(self, source, jobs):
        try:
            return super().execute(source, jobs)
        except StepFailed as failure:
            if failure.result.exit_code is None:
                return Outputs()
            raise


class EndsTheProcess(RecipesEngine):
    def execute(self, source, jobs):
        os._exit(0)


class ReturnsNothing(RecipesEngine):
    def execute(self, source, jobs):
        super().execute(source, jobs)


class IgnoresUntil(RecipesEngine):
    def execute(self, source, jobs):
        return super().execute(replace(source, until=None), jobs)


class ClaimsEveryFile(RecipesEngine):
    def recognises(self, path):
        return path.is_file()


class ClaimsNoFile(RecipesEngine):
    def recognises(self, path):
        return False


class RunsWhatItRecognises(RecipesEngine):
    def recognises(self, path):
        subprocess.run(["true"], check=True)
        return super().recognises(path)


class WritesWhenInspecting(RecipesEngine):
    def inspect(self, source):
        (source.root / "cache").write_text("parsed")
        return super().inspect(source)


class RunsWhatItInspects(RecipesEngine):
    def inspect(self, source):
        os.system("true")
        return super().inspect(source)


class FindsNoSteps(RecipesEngine):
    def inspect(self, source):
        super().inspect(source)
        return WorkflowInfo()


class FindsNoProblem(RecipesEngine):
    def inspect(self, source: Source):
        try:
            return super().inspect(source)
        except SpecError:
            return WorkflowInfo()


class SaysNoLine(RecipesEngine):
    def inspect(self, source):
        try:
            return super().inspect(source)
        except SpecError as error:
            raise SpecError([Problem(message=each.message) for each in error.problems]) from error


class OfAnotherApi(RecipesEngine):
    api = 0


class ImportsItsLibrary(RecipesEngine):
    """Nothing of its own is wrong: its module, this file, imports what it must not."""


WRONG = {
    RandomIdentity: (
        "test_identities_and_keys_do_not_depend_on_the_order_of_ends",
        "identities differ after another order of ends",
    ),
    HashedIdentity: (
        "test_identities_and_keys_do_not_depend_on_the_hash_seed",
        "identities differ after another PYTHONHASHSEED",
    ),
    OneIdentity: ("test_keeps_to_the_protocol", "two jobs with the identity 'part'"),
    TimeInTheKey: ("test_replay_submits_nothing", "asked for again"),
    WorkspaceInTheKey: ("test_keys_do_not_depend_on_the_workspace", "keys differ after another workspace"),
    CommandNotInTheKey: ("test_an_edit_changes_a_key[command]", "the old results were taken"),
    InputsNotInTheKey: ("test_an_edit_changes_a_key[input]", "the old results were taken"),
    LeavesTheWorkspace: ("test_specs_stay_in_the_workspace", "neither in the workspace nor"),
    PreparesInItsDirectory: ("test_keeps_to_the_protocol", "prepared before it was looked up"),
    ClearsBeforeTheLookup: ("test_replay_submits_nothing", "asked for again"),
    ForgetsToAccept: ("test_settles_every_job", "neither accepted nor rejected: b, c"),
    AcceptsTwice: ("test_keeps_to_the_protocol", "accepted or rejected already"),
    AcceptsAnything: ("test_a_rejected_job_is_not_remembered", "must be rejected"),
    HandsInTheInput: ("test_keeps_to_the_protocol", "neither among the outputs of its spec"),
    ForgetsWhatHasEnded: ("test_replay_after_a_kill_runs_only_the_rest", "killed at call"),
    FailsWithAnotherError: ("test_a_failed_command_fails_its_step", "RuntimeError: something went wrong"),
    BlamesAnotherStep: ("test_a_failed_command_fails_its_step", "StepFailed names 'workflow'"),
    ReportsSuccess: ("test_a_failed_command_fails_its_step", "must raise StepFailed"),
    HangsAfterAFailure: ("test_a_failed_command_fails_its_step", "hangs"),
    GoesOnAfterAFailure: ("test_asks_for_no_job_after_a_failure", "asked for after a failure: more"),
    TakesAStopForAnEnd: ("test_ends_when_it_is_stopped", "must raise StepFailed"),
    EndsTheProcess: ("test_execute_makes_the_outputs", "ended its own process"),
    ReturnsNothing: ("test_execute_makes_the_outputs", "execute returns Outputs, not NoneType"),
    IgnoresUntil: ("test_stops_after_the_named_step", "until b, but jobs of b, c"),
    ClaimsEveryFile: ("test_recognises_its_own_files_and_no_others", "not in its language: cwl"),
    ClaimsNoFile: ("test_recognises_its_own_files_and_no_others", "does not recognise"),
    RunsWhatItRecognises: ("test_recognises_executes_nothing", "was started: subprocess.Popen"),
    WritesWhenInspecting: ("test_inspect_executes_nothing", "were changed"),
    RunsWhatItInspects: ("test_inspect_executes_nothing", "was started: os.system"),
    FindsNoSteps: ("test_inspect_finds_the_steps", "inspect found"),
    FindsNoProblem: ("test_inspect_finds_the_problem_with_file_and_line", "must raise SpecError"),
    SaysNoLine: ("test_inspect_finds_the_problem_with_file_and_line", "names its file"),
    OfAnotherApi: ("test_says_what_it_is", "made for plugin API 0"),
    ImportsItsLibrary: ("test_importing_the_adapter_imports_no_engine_library", "imports wave"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_right_engine_passes(check, tmp_path):
    run(check, RecipesEngine(), tmp_path)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_engine_fails_the_check_named_for_it(wrong, tmp_path):
    check, words = WRONG[wrong]
    deadline_s = 2.0 if wrong is HangsAfterAFailure else 60.0
    with pytest.raises(AssertionError, match=re.escape(words)):
        run(check, wrong(), tmp_path, deadline_s)


def test_every_check_is_failed_by_some_wrong_engine():
    indirect = {"test_a_failed_job_is_run_again_and_no_other"}
    assert set(CHECKS) - {check for check, _ in WRONG.values()} <= indirect


def test_a_child_that_hangs_is_ended_within_its_deadline():
    with pytest.raises(ChildFailed, match="hangs"):
        forked(lambda _: time.sleep(60), 0.2)


def test_a_childs_error_comes_with_its_traceback():
    with pytest.raises(ChildFailed, match="ZeroDivisionError"):
        forked(lambda _: 1 / 0, 60)


def test_a_child_can_leave_without_unwinding(tmp_path):
    def work(leave):
        try:
            leave(JobResult(exit_code=0))
        finally:
            (tmp_path / "unwound").touch()

    assert forked(work, 60) == JobResult(exit_code=0)
    assert not (tmp_path / "unwound").exists()


def test_the_examples_own_tests_pass():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", EXAMPLE.parent],
        cwd=EXAMPLE.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_announces_its_engine():
    project = tomllib.loads((EXAMPLE.parent / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["drawbar"] == {RecipesEngine.name: EXAMPLE.stem}
    assert example().drawbar_register_engines() == [RecipesEngine]


def test_every_fixture_is_documented():
    page = (EXAMPLE.parents[2] / "docs" / "writing-an-engine.md").read_text()
    fixtures = set(SAMPLES) - {"samples"}
    assert fixtures <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
