"""Where runs live: ids that nobody else gets, and what is there found again, damaged or not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.errors import InfrastructureError, StoreError, UsageError
from drawbar.home import Home, RunDirectory, write_json, write_run
from drawbar.model import RunSpec
from drawbar.store import Store


def made(home: Home, name: str) -> RunDirectory:
    directory = home.create(name)
    spec = RunSpec(
        id=directory.id, name=name, engine="e", source="/s", document="d", workspace="/w", created=1.0
    )
    write_run(directory, spec)
    return directory


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_runs_of_a_name_are_numbered(home):
    assert [made(home, name).id for name in ("a", "a", "b", "a")] == ["a.1", "a.2", "b.1", "a.3"]
    assert [run.id for run in home.runs()] == ["a.1", "a.2", "a.3", "b.1"]


def test_a_number_is_not_used_again_while_a_later_one_is_there(home):
    made(home, "a")
    made(home, "a")
    (home.runs_path / "a.1").rename(home.path / "elsewhere")
    assert made(home, "a").id == "a.3"


def test_a_home_is_for_its_user_alone(home):
    directory = made(home, "a")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


CREATE = """
import sys
from pathlib import Path
from drawbar.home import Home
home = Home(Path(sys.argv[1]))
sys.stdin.readline()
for _ in range(25):
    print(home.create("same").id)
"""


def test_ids_made_by_many_processes_at_once_are_unique(home):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    makers = [subprocess.Popen([sys.executable, "-c", CREATE, str(home.path)], **pipes) for _ in range(4)]
    for maker in makers:
        maker.stdin.write("\n")
        maker.stdin.flush()
    ids = [line for maker in makers for line in maker.communicate(timeout=60)[0].split()]
    assert len(ids) == len(set(ids)) == 100


@pytest.mark.parametrize("name", ["a", "A-b_c", "a.b", "a.b-1", "0", "v1.x", "x" * 100])
def test_names_that_can_be(home, name):
    assert home.create(name).id == f"{name}.1"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "a.1", "a.", ".a", "-a", "a b", "a\n", "a\0", "é", "x" * 101]
)
def test_names_that_cannot_be(home, name):
    with pytest.raises(UsageError, match="cannot name a run"):
        home.create(name)
    assert not home.runs_path.exists()


def test_a_run_is_found_by_its_id_or_as_the_newest_of_its_name(home):
    for name in ("a", *["b"] * 11, "a.b"):
        made(home, name)
    assert home.find("b.2").id == "b.2"
    assert home.find("b").id == "b.11"
    assert home.find("a").id == "a.1"
    assert home.newest("b").id == "b.11"
    assert home.newest("c") is None


def test_a_run_that_is_not_there_is_an_error_with_a_hint(home):
    with pytest.raises(UsageError, match="drawbar list"):
        home.find("fit")
    made(home, "fit")
    with pytest.raises(UsageError, match="did you mean 'fit'"):
        home.find("fti")


def test_a_directory_without_a_specification_is_no_run(home):
    home.create("half")
    home.runs_path.joinpath("not-a-run").mkdir()
    home.runs_path.joinpath("file.7").touch()
    assert list(home.runs()) == []
    assert made(home, "half").id == "half.2"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"id": "a.1"}', '{"sings": true}', '{"id": 3}'])
def test_a_damaged_specification_is_an_error_that_names_the_file(home, text):
    directory = made(home, "a")
    (directory.path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json"):
        directory.spec()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": "sleeping"}', '{"state": []}', "\xff"])
def test_a_damaged_state_counts_as_none(home, text):
    directory = made(home, "a")
    (directory.path / "state.json").write_bytes(text.encode("latin-1"))
    assert directory.state() == {}
    assert directory.interrupted()


def test_a_run_whose_driver_is_gone_is_interrupted(home):
    directory = made(home, "a")
    directory.write_state({"state": "running"})
    assert directory.lease() is None
    assert directory.interrupted()
    with Store(directory.store) as store:
        store.acquire()
        assert not directory.interrupted()
        store.release()
    assert directory.interrupted()
    directory.write_state({"state": "finished"})
    assert not directory.interrupted()


def test_a_store_that_was_never_made_completely_is_of_no_driver(home):
    directory = made(home, "a")
    directory.store.touch()
    assert directory.lease() is None


def test_files_are_replaced_all_at_once(home, monkeypatch):
    directory = made(home, "a")
    directory.write_state({"state": "running"})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InfrastructureError, match=r"state\.json.*No space left"):
        directory.write_state({"state": "finished"})
    assert directory.state() == {"state": "running"}
    assert {path.name for path in directory.path.iterdir() if path.is_file()} == {"run.json", "state.json"}


def test_a_home_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="file/home"):
        Home(tmp_path / "file" / "home").create("a")
    with pytest.raises(InfrastructureError, match="file"):
        write_json(tmp_path / "file" / "x.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_home_that_cannot_be_read_is_an_error(home):
    made(home, "a")
    home.runs_path.chmod(0)
    try:
        with pytest.raises(InfrastructureError, match="runs"):
            list(home.runs())
    finally:
        home.runs_path.chmod(0o700)


def test_a_home_that_is_not_there_has_no_runs(tmp_path):
    assert list(Home(Path("relative")).runs()) == []
    assert Home(Path("relative")).path.is_absolute()
