"""Feature files: what is understood, what is refused and where, and what a run has to show."""

import hashlib
import os
import re
import textwrap
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from drawbar.checks.forms import FORMS
from drawbar.checks.search import disk_usage
from drawbar.errors import SpecError
from drawbar.gherkin import Outcome, evaluate, load_features


@dataclass
class Run:
    """A run as a test describes it."""

    workspace: Path
    logs: Path
    state: str = "finished"
    outputs: list[str] = field(default_factory=list)
    started: float | None = 1000.0
    finished: float | None = 1090.0
    times: dict[str, tuple[float, float]] = field(default_factory=dict)

    def engine_log(self):
        return [self.logs / "engine.log"]

    def job_logs(self, step=None):
        return sorted(self.logs.glob(f"{step or '*'}.out"))

    def step_times(self, step):
        return self.times.get(step)

    def log(self, name, text):
        (self.logs / name).write_text(text)

    def write(self, name, content=""):
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def run(tmp_path):
    for name in ("workspace", "logs"):
        (tmp_path / name).mkdir()
    return Run(tmp_path / "workspace", tmp_path / "logs")


@pytest.fixture
def load(tmp_path):
    def load(text, name="t.feature"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return load_features([path])

    return load


@pytest.fixture
def check(run, load):
    """The result of one expectation about the run."""

    def check(step):
        step = textwrap.indent(textwrap.dedent(step), "    ")
        [result] = evaluate(load(f"Feature: f\n  Scenario: s\n    Then {step.strip()}\n"), run)
        assert (result.outcome is Outcome.PASSED) == (result.message == "")
        return result

    return check


def problems(load, text):
    with pytest.raises(SpecError) as error:
        load(text)
    return [(problem.line, problem.message, problem.hint or "") for problem in error.value.problems]


# Reading.


def test_the_whole_language(load, run):
    run.write("a.txt", "one")
    [feature] = load(
        """\
        # language: en
        @all
        Feature: Language

          A description
          of several lines.

          Background:
            Given the workflow execution completes

          @first
          Scenario: doc-strings
            * the workflow is finished
            Then the file "a.txt" should contain
              \"\"\"
              one
              \"\"\"
            And the file a.txt should include
              ```
              one
              ```
            But the workspace should not include "b.txt"

          Scenario Outline: the size of <name>
            Then the size of the file "<name>" should be <how> <size>
            Examples:
              | name  | how     | size |
              | a.txt | exactly | 3    |
              | a.txt | exactly | 4B   |

          Rule: grouped
            Example: the last one
              When the workflow is failed
              Then the workspace should include "b.txt"
        """
    )
    assert feature.name == "Language"
    assert [(scenario.name, scenario.line) for scenario in feature.scenarios] == [
        ("doc-strings", 12),
        ("the size of a.txt", 24),
        ("the size of a.txt", 24),
        ("the last one", 32),
    ]
    assert [step.line for step in feature.scenarios[0].steps] == [9, 13, 14, 18, 22]
    results = evaluate([feature], run)
    assert [result.outcome for result in results] == ["passed", "passed", "failed", "skipped"]
    assert [result.line for result in results] == [12, 24, 25, 33]
    assert {result.feature for result in results} == {"Language"}
    assert results[2].message == "expected a.txt to have 4 bytes, it has 3"
    assert results[3].message == "the run is finished, not failed"
    assert [result.passed for result in results] == [True, True, False, False]
    assert all(result.duration_s >= 0 for result in results)


def test_every_problem_of_every_file_at_once(tmp_path):
    first, second, third = (tmp_path / name for name in ("1.feature", "2.feature", "3.feature"))
    first.write_text("Feature: f\n Scenario: s\n  When the workflow is fnished\n  Then it works\n")
    second.write_text("Feature: f\n Scenario: s\n  When x\n  This is not a step\n")
    with pytest.raises(SpecError) as error:
        load_features([first, second, third])
    found = [(Path(problem.file).name, problem.line) for problem in error.value.problems]
    assert found == [("1.feature", 3), ("1.feature", 4), ("2.feature", 4), ("3.feature", None)]
    message = str(error.value)
    assert "no run is ever 'fnished'" in message
    assert "unknown step: it works" in message
    assert "not Gherkin" in message
    assert "got 'This is not a step'" in message
    assert "cannot be read: No such file" in message
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("step", "suggestion"),
    [
        ('Then the workspace shuold include "a"', "the workspace should include {file}"),
        ('Then the engine log should contain "a"', 'the engine logs should contain "{text}"'),
        ("Then the engine logs should contain a", 'the engine logs should contain "{text}"'),
        ("When the workflow execution is complete", "the workflow execution completes"),
        ("When the workflow finishes", "the workflow is {status}"),
        (
            'Then the md5 sum of the file "a" should be "b"',
            "the {algorithm} checksum of the file {file} should be",
        ),
    ],
)
def test_an_unknown_step_suggests_the_nearest(load, step, suggestion):
    [(line, message, hint)] = problems(load, f"Feature: f\n Scenario: s\n  {step}\n")
    assert line == 3
    assert message.startswith("unknown step: ")
    assert f"did you mean: {suggestion}" in hint


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("the workflow should be done", "a status is one of created, queued"),
        ('the workspace should include "../a"', "leads out of the workspace"),
        ('the workspace should include ""', "names no file"),
        ('the workspace should include "a" and "b"', "names more than one file"),
        ('the workspace should include "a**b"', "** stands for whole directories"),
        ('the sha1 checksum of the file "a" should be "00"', "use sha256, sha512, md5, adler32"),
        ('the md5 checksum of the file "a" should be "xyz"', "has 32 hexadecimal digits"),
        ("the workflow run duration should be less than ten minutes", "ten is not a number"),
        ("the workflow run duration should be less than 10 weeks", "use seconds, minutes or hours"),
        ('the duration of the step "" should be less than 1 minutes', "names no step"),
        ("the size of the file a should be exactly big", "not a size such as"),
        ("the size of the file a should be between 1KB and 2KiB", "KB is no unit of size"),
        ("the workspace size should be less than -1", "not a size such as"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_tested(load, step, reason):
    [(line, message, _)] = problems(load, f"Feature: f\n Scenario: s\n  Then {step}\n")
    assert line == 3
    assert message.startswith("wrong argument: ")
    assert reason in message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "no Feature"),
        ("# just a comment\n", None, "no Feature"),
        ("Feature: f\n", 1, "no scenario"),
        ("Feature: f\n\n Scenario: s\n  Thn it does\n", 3, "tests nothing"),
        ("Feature: f\n\n Scenario: s\n  When the workflow is finished\n", 3, "tests nothing"),
        ("# language: fr\nFonctionnalité: f\n Scénario: s\n", 2, "in English, not in language 'fr'"),
        ("# language: xx\nFeature: f\n", 1, "Language not supported: xx"),
        (
            'Feature: f\n Scenario: s\n  Then the logs should contain\n   """\n   a\n',
            6,
            "unexpected end of file",
        ),
        (
            "Feature: f\n Scenario: s\n  When the workflow should be finished\n",
            3,
            "this is an expectation: the workflow",
        ),
        (
            "Feature: f\n Scenario: s\n  Then the workflow is finished\n",
            3,
            "this is a condition: the workflow",
        ),
        ("Feature: f\n Scenario: s\n  Then the logs should contain\n   | a |\n", 3, "no step takes a table"),
        ("Feature: f\n" + "#\n" * 200_000, None, "larger than"),
    ],
)
def test_what_is_not_a_feature_file(load, text, line, message):
    [(found_line, found, _)] = problems(load, text)
    assert found_line == line
    assert message in found


def test_a_file_written_on_another_system(tmp_path, run):
    path = tmp_path / "t.feature"
    steps = 'Then the logs should contain\r\n"""\r\na\r\nb\r\n"""\r\n'
    path.write_bytes(("\ufeffFeature: f\r\nScenario: s\r\n" + steps).encode())
    run.log("engine.log", "a\nb\n")
    [result] = evaluate(load_features([path]), run)
    assert result.passed


def test_what_is_not_a_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="not a regular file"):
        load_features([tmp_path / "pipe"])


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "t.feature"
    path.write_bytes(b"Feature: \xff\n")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_features([path])


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        ("Then the logs should contain '<a>'\n" * 1000, "|x|\n" * 10_000),
        ("Then the logs should contain '" + "<a>" * 20_000 + "'\n", "|" + "x" * 100_000 + "|\n"),
    ],
)
def test_an_outline_that_would_fill_the_memory_is_refused(load, steps, rows):
    text = f"Feature: f\nScenario Outline: s\n{steps}Examples:\n|a|\n{rows}"
    assert "too many scenarios" in problems(load, text)[0][1]


def test_a_step_of_a_background_is_reported_once(load):
    text = "Feature: f\nBackground:\nGiven nothing\nScenario: a\nThen the workflow should be finished\n"
    text += "Scenario: b\nThen the workflow should be finished\n"
    assert [line for line, _, _ in problems(load, text)] == [3]


def test_a_flood_of_problems_is_cut(load):
    text = "Feature: f\nScenario: a\n" + "".join(f"Then nothing {number}\n" for number in range(5000))
    assert len(problems(load, text)) == 100


def test_every_sentence_is_documented():
    page = Path(__file__).parents[2] / "docs/reference/tests.md"
    documented = re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE)
    assert {form.template for form in FORMS} <= set(documented)


# Conditions.


@pytest.mark.parametrize(
    ("state", "condition", "outcome"),
    [
        ("finished", "the workflow execution completes", "passed"),
        ("failed", "the workflow execution completes", "passed"),
        ("stopped", "the workflow execution completes", "passed"),
        ("running", "the workflow execution completes", "skipped"),
        ("failed", "the workflow is failed", "passed"),
        ("failed", 'the workflow status is "failed"', "passed"),
        ("failed", "the workflow status is finished", "skipped"),
    ],
)
def test_conditions(load, run, state, condition, outcome):
    run.state = state
    [result] = evaluate(
        load(f"Feature: f\nScenario: s\nWhen {condition}\nThen the workflow should be {state}\n"), run
    )
    assert result.outcome == outcome


def test_a_scenario_ends_at_its_first_failure(load, run):
    [result] = evaluate(
        load(
            """\
            Feature: f
              Scenario: s
                When the workflow is finished
                Then the workflow should be finished
                And the workspace should include "a"
                And the workspace should include "b"
            """
        ),
        run,
    )
    assert (result.outcome, result.scenario, result.line) == ("failed", "s", 5)
    assert result.message == "expected a in the workspace, the workspace is empty"
    assert result.file.endswith("t.feature")


# Expectations.


def test_status(check, run):
    run.state = "failed"
    assert check("the workflow should be failed").passed
    assert check('THE WORKFLOW STATUS should be "failed"').passed
    assert check("the workflow should be finished").message == "expected the run to be finished, it is failed"


def test_outputs(check, run):
    run.outputs = ["results/a.txt", "plots", "*.log"]
    run.write("results/a.txt")
    run.write("plots/a.png")
    result = check("all the outputs should be included in the workspace")
    assert result.message == "expected 3 declared outputs in the workspace, missing: *.log"
    run.write("x.log")
    assert check("the outputs should be included in the workspace").passed


@pytest.mark.parametrize(
    "name", ['"r/a.txt"', "r/a.txt", '"./r/a.txt"', '"/r/a.txt"', '"r"', '"r/"', '"r/*.txt"', '"**/a.txt"']
)
def test_presence(check, run, name):
    run.write("r/a.txt")
    for verb in ("include", "contain"):
        assert check(f"the workspace should {verb} {name}").passed
        assert not check(f"the workspace should not {verb} {name}").passed
    assert check(f"{name} should be in the workspace").passed
    assert check(f"{name} should not be in the workspace").message.startswith("expected no ")


@pytest.mark.parametrize("name", ['"r/b.txt"', '"a.txt"', '"r/*.root"', '"r/a.txt/x"', '"s/t/u"'])
def test_absence(check, run, name):
    run.write("r/a.txt")
    for verb in ("include", "contain"):
        assert not check(f"the workspace should {verb} {name}").passed
        assert check(f"the workspace should not {verb} {name}").passed
    assert not check(f"{name} should be in the workspace").passed


def test_a_missing_file_is_told_with_what_is_there(check, run):
    for number in range(12):
        run.write(f"results/plot{number:02}.png")
    message = check('the workspace should include "results/plt.png"').message
    assert message.startswith(
        "expected results/plt.png in the workspace, found in results/: plot00.png, plot01.png"
    )
    assert message.endswith(" and 2 more")
    assert "found in the workspace: results" in check('the workspace should include "plots/a.png"').message


def test_a_name_with_a_bracket_is_itself_first(check, run):
    run.write("a[1].txt", "x")
    run.write("a1.txt", "yy")
    assert check('the size of the file "a[1].txt" should be exactly 1').passed


def test_a_docstring_is_the_last_argument(check, run):
    run.write("a.txt", "first\n  second\n")
    docstring = '\n  """\n  {}\n  """'
    assert check("the workspace should include" + docstring.format("a.txt")).passed
    assert check("the file a.txt should contain" + docstring.format("first\n    second")).passed
    digest = hashlib.sha256(b"first\n  second\n").hexdigest()
    assert check('the "sha256" checksum of the file "a.txt" should be' + docstring.format(digest)).passed


ENGINE_LOG = """\
2026-01-01 10:00:00,000 | adage | MainThread | INFO | node ready </init:0|success|known>
2026-01-01 10:00:01,000 | root | MainThread | INFO | Publishing step:0, cmd: echo "a"
echo b, total steps 2 to MQ
"""


def test_logs(check, run):
    run.log("engine.log", ENGINE_LOG)
    run.log("fit.out", "Hello\nMIGRAD HAS CONVERGED\n")
    run.log("gen.out", "Bonjour\n")
    assert check(
        'the engine logs should contain "MainThread | INFO | node ready </init:0|success|known>"'
    ).passed
    assert check('the logs should contain "cmd: echo "a""').passed
    assert check('the logs should contain "Bonjour"').passed
    assert check('the job logs should contain "Bonjour"').passed
    assert check('the job logs for the step "fit" should contain "CONVERGED"').passed
    assert check('the job logs for the fit step should contain "CONVERGED"').passed
    assert check('the job logs for the "fit" step should contain\n  """\n  Hello\n  MIGRAD\n  """').passed
    assert not check('the engine logs should contain "Bonjour"').passed
    assert not check('the job logs should contain "node ready"').passed
    assert not check('the job logs for the "fit" step should contain "Bonjour"').passed
    assert not check('the logs should contain "bonjour"').passed


def test_a_text_that_is_not_there_is_told_with_the_nearest_line(check, run):
    run.log("engine.log", ENGINE_LOG)
    message = check('the engine logs should contain "INFO | node ready </fit:0|success|known>"').message
    assert "expected in the engine log: 'INFO | node ready </fit:0|success|known>'" in message
    assert (
        "the nearest line is '2026-01-01 10:00:00,000 | adage | MainThread | INFO | node ready </init:0|"
        in message
    )
    assert check('the engine logs should contain "tout autre"').message.endswith("no line is similar")
    assert len(check(f'the engine logs should contain "{"x" * 10_000}"').message) < 400
    message = check('the logs should contain\n  """\n  total steps 2 to MQ\n  node gone\n  """').message
    assert "not there is 'node gone'" in message
    message = check(
        'the logs should contain\n  """\n  echo b, total steps 2 to MQ\n  node ready\n  """'
    ).message
    assert message == (
        "expected in the logs: 'echo b, total steps 2 to MQ' and 1 more below it; "
        "all of them are there, but not one after the other"
    )


def test_an_unknown_step_of_the_workflow(check, run):
    assert check('the job logs for the step "no" should contain "x"').message == (
        "expected job logs of a step 'no', the run has none"
    )
    assert check('the duration of the step "no" should be less than 1 minutes').message == (
        "expected the times of a step 'no', the run has none"
    )


def test_logs_that_do_not_exist_are_empty(check):
    assert (
        check('the engine logs should contain "x"').message
        == "expected in the engine log: 'x'; no line is similar"
    )


def test_a_text_across_pieces_of_a_large_file_is_found(check, run):
    for shift in (-3, -1, 0, 2):
        run.write("big", b"." * ((1 << 20) + shift) + b"needle" + b"." * 5)
        assert check('the file "big" should contain "needle"').passed
    assert not check('the file "big" should contain "needles"').passed


def test_file_contents(check, run):
    run.write("a.txt", 'message = "Hello " + name + "!\\n"\nGrüße\n')
    run.write("b.txt", "other\n")
    assert check(r'the file "a.txt" should contain "message = "Hello " + name + "!\n""').passed
    assert check('the file "a.txt" should include "Grüße"').passed
    assert check('the file "a*" should include "Grüße"').passed
    assert check('the file "a.txt" should include "Gruss"').outcome == "failed"
    assert (
        check('the file "*.txt" should include "other"').message
        == "expected one file *.txt, found a.txt, b.txt"
    )
    assert check('the file "c.txt" should include "other"').message.endswith(
        "found in the workspace: a.txt, b.txt"
    )


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5", "SHA256", '"md5"'])
def test_checksums(check, run, algorithm):
    run.write("a", "content")
    digest = hashlib.new(algorithm.strip('"').lower(), b"content").hexdigest()
    assert check(f'the {algorithm} checksum of the file "a" should be "{digest}"').passed
    assert check(f"the {algorithm} checksum of the file a should be {digest.upper()}").passed
    run.write("a", "changed")
    message = check(f'the {algorithm} checksum of the file "a" should be "{digest}"').message
    assert (
        f"{digest} of a, found {hashlib.new(algorithm.strip(chr(34)).lower(), b'changed').hexdigest()}"
        in message
    )


def test_adler32_with_and_without_leading_zeros(check, run):
    run.write("a", "a")
    assert f"{zlib.adler32(b'a'):x}" == "620062"
    for written in ("620062", "0x620062", "00620062"):
        assert check(f'the adler32 checksum of the file "a" should be "{written}"').passed
    assert not check('the adler32 checksum of the file "a" should be "620063"').passed


@pytest.mark.parametrize(
    ("limit", "passed"),
    [
        ("2 minutes", True),
        ('"1.5" minutes', False),
        ("90.5 seconds", True),
        ("90 seconds", False),
        ("1 hour", True),
        ("1 minute", False),
    ],
)
def test_durations(check, run, limit, passed):
    run.times["fit"] = (1000.0, 1090.0)
    assert check(f"the workflow run duration should be less than {limit}").passed is passed
    assert check(f'the duration of the step "fit" should be less than {limit}').passed is passed


def test_the_duration_of_a_run_that_has_not_ended(check, run):
    run.finished = None
    message = check("the workflow run duration should be less than 1 minutes").message
    assert message == "expected the run to take less than 60 s, it has not ended"


@pytest.mark.parametrize(
    ("sizes", "passed"),
    [
        ("exactly 1536", True),
        ("exactly 1536 bytes", True),
        ('exactly "1.5 KiB"', True),
        ("exactly 1.5KiB", True),
        ("exactly 1535", False),
        ("between 1KiB and 2KiB", True),
        ("between 2 KiB and 1 KiB", True),
        ("between 1536 and 1537 bytes", True),
        ("between 1537 and 1 MiB", False),
    ],
)
def test_file_sizes(check, run, sizes, passed):
    run.write("a", b"x" * 1536)
    result = check(f'the size of the file "a" should be {sizes}')
    assert result.passed is passed
    assert passed or result.message.endswith("it has 1536")


def test_workspace_size_counts_whole_blocks(check, run):
    run.write("d/a", b"x" * 5000)
    run.write("d/empty")
    (run.workspace / "link").symlink_to("d/a")
    (run.workspace / "hard").hardlink_to(run.workspace / "d/a")
    assert disk_usage(run.workspace) == 4 * 4096  # itself, d, and two blocks of a
    assert check("the workspace size should be more than 15KiB").passed
    assert check("the workspace size should be less than 16 KiB").passed
    assert (
        "at most 1024 bytes, it occupies 16384"
        in check("the workspace size should be less than 1KiB").message
    )
    assert "at least 1048576 bytes" in check('the workspace size should be more than "1 MiB"').message


def test_nothing_outside_of_the_workspace_is_read(check, run, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("token")
    (run.workspace / "file").symlink_to(tmp_path / "secret/key")
    (run.workspace / "directory").symlink_to(tmp_path / "secret")
    (run.workspace / "loop").symlink_to("loop")
    (run.workspace / "dangling").symlink_to("nowhere")
    assert "leads out of" in check('the file "file" should contain "token"').message
    assert "leads out of" in check('the size of the file "file" should be exactly 5').message
    for name in ("directory/key", "directory/*", "*/key"):
        assert not check(f'the file "{name}" should contain "token"').passed
        assert not check(f'the workspace should include "{name}"').passed
    message = check('the file "directory/none" should contain "token"').message
    assert "leads out of" in message
    assert "key" not in message
    assert check('the workspace should include "dangling"').passed
    for name in ("loop", "dangling"):
        assert "no regular file" in check(f'the file "{name}" should contain "token"').message


def test_what_is_not_a_regular_file_is_never_opened(check, run):
    os.mkfifo(run.workspace / "pipe")
    run.write("d/a", "token")
    assert "no regular file" in check('the file "pipe" should contain "token"').message
    assert "a directory" in check('the file "d" should contain "token"').message


def test_evidence_that_cannot_be_read_fails_its_scenario(check, run, monkeypatch):
    def unreadable():
        raise PermissionError(13, "Permission denied", "engine.log")

    monkeypatch.setattr(run, "engine_log", unreadable)
    result = check('the engine logs should contain "x"')
    assert result.outcome is Outcome.FAILED
    assert result.message.startswith("cannot read what it tests: ")
    assert "engine.log" in result.message
