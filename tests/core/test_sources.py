"""Bringing a run up to date with what its user edited, whenever it is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawbar import sources
from drawbar.analysis import load_analysis
from drawbar.codec import dumps
from drawbar.creation import create_run
from drawbar.home import Home
from drawbar.model import FileRecord, JobState
from drawbar.plugins import load_plugins
from drawbar.settings import load_settings
from drawbar.sources import synchronise
from drawbar.store import ACCEPTED, AttemptRow, Store

ANALYSIS = """
inputs:
  files: [data.txt]
  directories: [code]
workflow:
  type: serial
  specification:
    steps:
      - name: a
        environment: img
        commands: [cat data.txt]
"""


class Run:
    def __init__(self, directory: Path, **arguments) -> None:
        self.source = directory / "analysis"
        (self.source / "code" / "deep").mkdir(parents=True)
        (self.source / "reana.yaml").write_text(ANALYSIS)
        (self.source / "data.txt").write_text("data")
        (self.source / "code" / "a.py").write_text("a")
        (self.source / "code" / "deep" / "b.py").write_text("b")
        self.engines = load_plugins({}).engines
        settings = load_settings(
            start=directory, environ={"DRAWBAR_HOME": str(directory / "home"), "HOME": str(directory)}
        )
        self.directory = create_run(
            Home(settings.home), self.analysis(), settings=settings, name="r", **arguments
        )
        self.workspace = Path(self.directory.spec().workspace)
        self.store = Store(self.directory.store)
        self.store.acquire()

    def analysis(self):
        return load_analysis(self.source, engines=self.engines)

    def synchronise(self, commit=True):
        changes = synchronise(self.directory, self.directory.spec(), self.analysis(), self.store)
        if commit:
            self.store.commit()
        else:
            self.store._gathered.clear()
        return changes

    def accept(self, path: str) -> None:
        """A job has written a file."""
        texts = dict.fromkeys(("tag", "identity", "step", "name", "key", "record", "backend"), "job")
        numbers = {"try_number": 1, "number": 1, "created": 1.0}
        row = AttemptRow(
            **texts, **numbers, run=self.directory.id, document="{}", spec_json="{}", state=JobState.FINISHED
        )
        row.outcome = ACCEPTED
        row.outputs = dumps([FileRecord(path=path, size=1, mtime_ns=1, sha256="s")])
        self.store.add_attempts([row])
        self.store.commit()

    def copies(self, name: str):
        places = (self.directory.definition / name, self.workspace / name)
        return tuple(place.read_text() if place.exists() else None for place in places)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    yield run
    run.store.close()


def test_nothing_edited_is_nothing_changed(run):
    for _ in range(2):
        changes = run.synchronise()
        assert (changes.edited, changes.added, changes.removed, changes.kept) == ((), (), (), ())
        assert changes.sentences() == []
    names = {"data.txt", "code/a.py", "code/deep/b.py"}
    assert changes.origins == {name: run.directory.definition / name for name in names}
    assert run.store.sources("r.1").keys() == names | {"reana.yaml"}


def test_what_was_edited_added_and_removed_is_told_and_copied(run):
    run.synchronise()
    (run.source / "data.txt").write_text("other")
    (run.source / "code" / "new.py").write_text("new")
    (run.source / "code" / "a.py").unlink()
    changes = run.synchronise()
    assert changes.sentences() == ["edited: data.txt", "added: code/new.py", "removed: code/a.py"]
    assert run.copies("data.txt") == ("other", "other")
    assert run.copies("code/new.py") == ("new", "new")
    assert run.copies("code/a.py") == (None, "a")
    assert "code/a.py" not in changes.origins
    assert run.synchronise().sentences() == []


def test_the_analysis_itself_is_copied_to_the_definition_only(run):
    run.synchronise()
    (run.source / "reana.yaml").write_text(ANALYSIS.replace("cat data", "head data"))
    assert run.synchronise().sentences() == ["edited: reana.yaml"]
    definition, workspace = run.copies("reana.yaml")
    assert "head" in definition
    assert workspace is None


def test_a_touched_file_is_not_an_edited_one(run):
    run.synchronise()
    (run.source / "data.txt").touch()
    (run.source / "data.txt").chmod(0o755)
    assert run.synchronise().edited == ()


def test_what_a_job_wrote_is_never_copied_over(run):
    run.synchronise()
    (run.workspace / "data.txt").write_text("from a job")
    (run.source / "data.txt").write_text("other")
    run.accept("data.txt")
    changes = run.synchronise()
    assert changes.kept == ("data.txt",)
    assert "keeps what a job wrote there: data.txt" in changes.sentences()[1]
    assert run.copies("data.txt") == ("other", "from a job")


def test_edits_before_the_first_drive_are_seen(run):
    (run.source / "data.txt").write_text("other")
    assert run.synchronise().edited == ("data.txt",)
    assert run.copies("data.txt") == ("other", "other")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("copies", range(4))
def test_a_kill_between_any_two_copies_is_made_good(run, monkeypatch, first, copies):
    """Killed after so many copies, and nothing committed: the next drive tells and does the rest."""
    if not first:
        run.synchronise()
    (run.source / "data.txt").write_text("other")
    (run.source / "code" / "a.py").write_text("other")
    real, left = sources.copy_file, [copies]

    def copy_or_die(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "copy_file", copy_or_die)
        with pytest.raises(KeyboardInterrupt):
            run.synchronise()
    run.store._gathered.clear()
    run.synchronise()
    assert run.copies("data.txt") == run.copies("code/a.py") == ("other", "other")


def test_a_run_in_place_copies_nothing_into_the_users_directory(tmp_path):
    run = Run(tmp_path, in_place=True)
    run.synchronise()
    (run.source / "data.txt").write_text("other")
    assert run.synchronise().edited == ("data.txt",)
    assert (run.directory.definition / "data.txt").read_text() == "other"
    run.store.close()


def test_no_link_in_the_workspace_leads_a_copy_astray(run, tmp_path):
    run.synchronise()
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (run.workspace / "data.txt").unlink()
    (run.workspace / "data.txt").symlink_to(outside)
    (run.source / "data.txt").write_text("other")
    run.synchronise()
    assert outside.read_text() == "mine"
    assert run.copies("data.txt") == ("other", "other")
