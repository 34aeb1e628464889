import errno
import hashlib
import os
from pathlib import Path

import pytest
from drawbar.copying import TEMPORARY
from drawbar.digests import Digests
from drawbar.errors import InfrastructureError, RunFailed, SpecError
from drawbar.model import Keep
from drawbar.publish import check_outputs, discard, disk_usage, free_space, publish


@pytest.fixture
def workspace(tmp_path):
    workspace = tmp_path / "workspace"
    (workspace / "results" / "deep").mkdir(parents=True)
    (workspace / "results" / "plot.png").write_bytes(b"plot")
    (workspace / "results" / "deep" / "table.csv").write_bytes(b"1,2")
    (workspace / "log.txt").write_bytes(b"log")
    return workspace


@pytest.fixture
def digests(tmp_path):
    return Digests(tmp_path / "memo")


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


class TestCheck:
    def test_files_and_directories(self, workspace, digests):
        records, missing = check_outputs(workspace, ["log.txt", "results", "results/plot.png"], digests)
        assert missing == {}
        assert [record.path for record in records] == [
            "log.txt",
            "results/deep/table.csv",
            "results/plot.png",
        ]
        assert records[0].size == 3
        assert records[0].sha256 == hashlib.sha256(b"log").hexdigest()

    def test_an_empty_directory_is_there(self, workspace, digests):
        (workspace / "empty").mkdir()
        records, missing = check_outputs(workspace, ["empty/"], digests)
        assert [(record.path, record.kind) for record in records] == [("empty", "directory")]
        assert not missing

    def test_all_that_is_missing_is_told_with_its_reason(self, workspace, digests, tmp_path):
        (tmp_path / "secret").write_bytes(b"s")
        (workspace / "out").symlink_to(tmp_path / "secret")
        (workspace / "results" / "hidden").symlink_to("/etc/passwd")
        (workspace / "broken").symlink_to("nowhere")
        (workspace / "up").symlink_to("..")
        os.mkfifo(workspace / "pipe")
        names = ["nothing", "log.txt/inner", "out", "results", "broken", "pipe", "up/secret", "log.txt"]
        records, missing = check_outputs(workspace, names, digests)
        assert [record.path for record in records] == ["log.txt"]
        assert list(missing) == names[:-1]
        assert missing["nothing"] == "does not exist"
        assert "leads out" in missing["out"]
        assert "hidden" in missing["results"]
        assert "nowhere" in missing["broken"]
        assert "named pipe" in missing["pipe"]
        assert "leads out" in missing["up/secret"]

    def test_a_link_inside_counts_as_the_file(self, workspace, digests):
        (workspace / "latest").symlink_to("results/plot.png")
        (workspace / "all").symlink_to("results")
        (workspace / "results" / "again").symlink_to("plot.png")
        (workspace / "results" / "round").symlink_to("..")
        records, missing = check_outputs(workspace, ["latest", "all"], digests)
        assert not missing
        assert {record.path: record.size for record in records} == {
            "latest": 4,
            "all/again": 4,
            "all/deep/table.csv": 3,
            "all/plot.png": 4,
        }

    @pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", ""])
    def test_paths_stay_inside(self, workspace, digests, path):
        with pytest.raises(SpecError):
            check_outputs(workspace, [path], digests)
        with pytest.raises(SpecError):
            publish([path], workspace, workspace / "x")


class TestPublish:
    @pytest.mark.parametrize("hard_links", [False, True])
    def test_copies_to_the_same_relative_paths(self, workspace, tmp_path, hard_links):
        places = publish(["results", "log.txt"], workspace, tmp_path / "a/b", hard_links=hard_links)
        assert places == [tmp_path / "a/b/results", tmp_path / "a/b/log.txt"]
        assert listing(tmp_path / "a/b") == [
            "log.txt",
            "results",
            "results/deep",
            "results/deep/table.csv",
            "results/plot.png",
        ]
        assert (tmp_path / "a/b/results/deep/table.csv").read_bytes() == b"1,2"

    def test_without_hard_links_a_published_file_is_the_users_alone(self, workspace, tmp_path):
        publish(["log.txt"], workspace, tmp_path / "out")
        (tmp_path / "out/log.txt").write_bytes(b"mine")
        assert (workspace / "log.txt").read_bytes() == b"log"

    def test_again_after_a_change(self, workspace, tmp_path):
        publish(["results"], workspace, tmp_path / "out")
        (workspace / "results/plot.png").write_bytes(b"better")
        publish(["results"], workspace, tmp_path / "out")
        assert (tmp_path / "out/results/plot.png").read_bytes() == b"better"

    def test_nothing_is_copied_when_anything_is_missing(self, workspace, tmp_path):
        (workspace / "evil").symlink_to("/etc/passwd")
        with pytest.raises(RunFailed) as caught:
            publish(["log.txt", "one", "two", "evil"], workspace, tmp_path / "out")
        for word in ("one does not exist", "two does not exist", "evil leads out"):
            assert word in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_a_link_at_the_destination_is_replaced(self, workspace, tmp_path):
        (tmp_path / "victim").write_bytes(b"precious")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/log.txt").symlink_to(tmp_path / "victim")
        publish(["log.txt"], workspace, tmp_path / "out")
        assert (tmp_path / "victim").read_bytes() == b"precious"
        assert (tmp_path / "out/log.txt").read_bytes() == b"log"

    def test_a_full_disk(self, workspace, tmp_path, monkeypatch):
        def full(*args, **options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "copy_file_range", full, raising=False)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(InfrastructureError, match=r"log.txt.*free some space"):
            publish(["log.txt"], workspace, tmp_path / "out")
        assert not [name for name in listing(tmp_path / "out") if TEMPORARY in name]
        assert listing(tmp_path / "out") == []


def test_disk_usage_counts_a_file_once(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    empty = disk_usage(root)
    (root / "a").write_bytes(b"x" * 100_000)
    once = disk_usage(root)
    assert once >= empty + 100_000
    os.link(root / "a", root / "b")
    (root / "c").symlink_to("/")
    assert disk_usage(root) < once + 50_000
    assert disk_usage(tmp_path / "missing") == 0


def test_free_space_of_what_is_not_there_yet(tmp_path):
    assert free_space(tmp_path / "a" / "b") > 0


class TestDiscard:
    def test_all_is_kept(self, workspace):
        before = listing(workspace)
        assert discard(workspace, Keep.ALL) == 0
        assert listing(workspace) == before

    def test_outputs_are_kept(self, workspace):
        (workspace / "results" / "scratch").write_bytes(b"x" * 10_000)
        freed = discard(workspace, Keep.OUTPUTS, ["results/deep", "missing"])
        assert listing(workspace) == ["results", "results/deep", "results/deep/table.csv"]
        assert freed >= 10_000

    def test_nothing_is_kept(self, workspace):
        assert discard(workspace, Keep.NONE, ["results"]) > 0
        assert not workspace.exists()
        assert discard(workspace, Keep.NONE) == 0

    def test_links_are_removed_and_not_followed(self, workspace, tmp_path):
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "precious").write_bytes(b"p")
        (workspace / "results" / "link").symlink_to(tmp_path / "outside")
        discard(workspace, Keep.OUTPUTS, ["log.txt"])
        assert listing(workspace) == ["log.txt"]
        assert (tmp_path / "outside" / "precious").exists()

    def test_read_only_directories(self, workspace):
        (workspace / "results" / "deep").chmod(0o500)
        (workspace / "results").chmod(0o500)
        (workspace / "closed").mkdir(mode=0)
        discard(workspace, Keep.NONE)
        assert not workspace.exists()

    def test_deep_and_odd(self, workspace):
        here = Path.cwd()
        os.chdir(workspace)
        try:
            for name in ("new\nline", "-rf", "ü" * 100, *["d"] * 300):
                Path(name).mkdir()
                os.chdir(name)
        finally:
            os.chdir(here)
        discard(workspace, Keep.NONE)
        assert not workspace.exists()
