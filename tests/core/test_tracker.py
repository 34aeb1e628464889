import errno
import os
import socket
import time

import pytest
from drawbar.copying import TEMPORARY
from drawbar.digests import Digests
from drawbar.errors import InfrastructureError
from drawbar.tracker import StartOver, WorkspaceTracker


class World:
    """A workspace with one source, and jobs done by hand."""

    def __init__(self, top, *, in_place=False, budget_mib=100):
        self.workspace, self.origin, self.state = top / "workspace", top / "origin", top / "state"
        self.memo = top / "memo"
        self.in_place = in_place
        self.budget_mib = budget_mib
        self.store = {}
        for root in (self.workspace, self.origin):
            root.mkdir()
            (root / "script").write_bytes(b"v0")

    def tracker(self, **options):
        origins = None if self.in_place else {"script": self.origin / "script"}
        digests = Digests(self.memo)
        return WorkspaceTracker(
            self.workspace, self.state, digests, origins, budget_mib=self.budget_mib, **options
        )

    def do(self, tracker, identity, **files):
        """A whole job that writes these files, or deletes those that are None."""
        tracker.settle(identity)
        self.write(**files)
        found = tracker.changes()
        tracker.accept(identity, *found)
        self.store[identity] = found
        return found

    def write(self, **files):
        for name, content in files.items():
            path = self.workspace / name
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def hit(self, tracker, identity):
        records, deleted = self.store[identity]
        assert tracker.verify(identity, records) is None
        tracker.hit(identity, records, deleted)

    def names(self):
        return sorted(str(path.relative_to(self.workspace)) for path in self.workspace.rglob("*"))

    def read(self, name):
        return (self.workspace / name).read_bytes()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def in_place(tmp_path):
    return World(tmp_path, in_place=True)


def test_what_a_job_changed(world):
    (world.workspace / "old").mkdir()
    world.write(gone=b"x", kept=b"k", **{"d/deep": b"1"})
    tracker = world.tracker()
    assert tracker.begin() == ()
    tracker.settle("1")
    world.write(new=b"n", script=b"v9", gone=None)
    (world.workspace / "old").rmdir()
    (world.workspace / "empty").mkdir()
    (world.workspace / "link").symlink_to("nowhere")
    (world.workspace / "d/deep").chmod(0o755)
    (world.workspace / "kept").touch()
    records, deleted = tracker.changes()
    assert {record.path: (record.kind, record.executable) for record in records} == {
        "d/deep": ("file", True),
        "empty": ("directory", False),
        "link": ("link", False),
        "new": ("file", False),
        "script": ("file", False),
    }
    assert deleted == ["gone", "old"]
    digests = Digests(world.memo)
    assert all(digests.verify(record, world.workspace) for record in records)


def test_drawbars_own_files_and_pipes_are_not_the_jobs(world):
    (world.workspace / ".drawbar").mkdir()
    tracker = world.tracker(ignored=["logs"])
    tracker.begin()
    tracker.settle("1")
    world.write(**{".drawbar/x": b"", "logs/1": b"", f"{TEMPORARY}x": b"", "made": b""})
    os.mkfifo(world.workspace / "pipe")
    records, deleted = tracker.changes()
    assert ([record.path for record in records], deleted) == (["made"], [])


def test_the_next_job_finds_files_as_the_digest_says(world):
    tracker = world.tracker()
    tracker.begin()
    first = tracker.digest("script")
    assert tracker.digest("made") is None
    world.do(tracker, "1", script=b"v1", made=b"v0")
    assert tracker.digest("script") != first == tracker.digest("made")
    again = world.tracker()
    again.begin()
    assert again.digest("script") == first  # the first job found it so, whatever the disk holds now
    world.hit(again, "1")
    assert again.digest("made") == first


def test_a_miss_in_the_middle_finds_what_it_found_the_first_time(world):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", table=b"one", scratch=b"s")
    (world.workspace / "link").symlink_to("table")
    world.do(tracker, "2", table=b"two", scratch=None, plot=b"p")
    world.do(tracker, "3", table=b"three", more=b"m")
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    settled = again.settle("2")
    assert world.names() == ["scratch", "script", "table"]
    assert (world.read("table"), world.read("scratch")) == (b"one", b"s")
    assert settled.swept == ("link", "more", "plot", "table")
    assert settled.restored == ("scratch", "table")
    assert (settled.swept_to / "plot").read_bytes() == b"p"
    assert (settled.swept_to / "table").read_bytes() == b"three"


def test_a_remembered_run_touches_nothing(world):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", a=b"1")
    world.do(tracker, "2", a=b"2", b=b"2")
    world.do(tracker, "3", b=None)
    tracker.settle(None)
    world.budget_mib = 0
    before = [(path, path.stat().st_ctime_ns) for path in world.workspace.rglob("*")]
    again = world.tracker()
    assert again.begin() == ()
    for identity in ("1", "2", "3"):
        world.hit(again, identity)
    settled = again.settle(None)
    assert (settled.swept, settled.restored, settled.swept_to) == ((), (), None)
    assert before == [(path, path.stat().st_ctime_ns) for path in world.workspace.rglob("*")]


def test_a_file_without_a_copy_is_a_miss_when_somebody_outside_took_it(tmp_path):
    world = World(tmp_path, budget_mib=0)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", a=b"1")
    world.write(a=b"edited")
    again = world.tracker()
    again.begin()
    assert "a was changed" in again.verify("1", world.store["1"][0])
    world.write(a=None)
    again.begin()
    assert "a is missing" in again.verify("1", world.store["1"][0])


def test_an_earlier_jobs_file_does_not_stand_for_a_later_jobs(tmp_path):
    world = World(tmp_path, budget_mib=0)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", a=b"1")
    tracker.settle("2")
    world.write(a=b"2")
    world.store["2"] = tracker.changes()  # accepted, and killed before the tracker knew
    world.write(a=b"1")
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    assert "a was changed" in again.verify("2", world.store["2"][0])


def test_a_copy_brings_back_what_somebody_outside_took(world):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", a=b"1")
    (world.workspace / "a").chmod(0o755)
    world.do(tracker, "2", b=b"2")
    world.write(a=b"edited", b=None)
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    world.hit(again, "2")
    settled = again.settle(None)
    assert (world.read("a"), world.read("b")) == (b"1", b"2")
    assert settled.swept == ("a",)
    assert again.changes() == ([], [])


def test_without_a_copy_the_run_starts_over_and_nothing_is_touched(tmp_path):
    world = World(tmp_path, budget_mib=0)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", table=b"one")
    world.do(tracker, "2", table=b"two", plot=b"p")
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    with pytest.raises(StartOver, match="table") as caught:
        again.settle("2")
    assert caught.value.path == "table"
    assert world.names() == ["plot", "script", "table"]
    settled = again.reset()
    assert world.names() == ["script"]
    assert settled.swept == ("plot", "table")
    again.begin()
    assert again.verify("1", world.store["1"][0]) is not None
    world.do(again, "1", table=b"one")


def test_a_failed_job_is_undone(world):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", table=b"one")
    tracker.settle("2")
    world.write(table=b"half", partial=b"p", script=b"broken")
    tracker.failed()
    again = world.tracker()
    assert again.begin() == ()
    world.hit(again, "1")
    assert again.settle("2").swept == ("partial", "script", "table")
    assert (world.read("table"), world.read("script")) == (b"one", b"v0")


def test_another_attempt_in_the_same_process_starts_clean(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(partial=b"p")
    assert tracker.settle("1").swept == ("partial",)
    assert world.do(tracker, "1", whole=b"w")[0][0].path == "whole"


class TestEdits:
    def test_of_an_origin(self, world):
        tracker = world.tracker()
        tracker.begin()
        world.do(tracker, "1", a=b"1")
        old = tracker.digest("script")
        (world.origin / "script").write_bytes(b"v1")
        again = world.tracker()
        assert again.begin() == ("script",)
        assert again.digest("script") != old
        again.settle("1")
        assert (world.names(), world.read("script")) == (["script"], b"v1")
        assert world.tracker().begin() == ()

    def test_of_an_origin_that_is_no_input_any_more(self, world):
        (world.origin / "second").write_bytes(b"2")
        world.write(second=b"2")
        digests = Digests(world.memo)
        both = {name: world.origin / name for name in ("script", "second")}
        tracker = WorkspaceTracker(world.workspace, world.state, digests, both)
        tracker.begin()
        tracker.close()
        again = world.tracker()
        assert again.begin() == ("second",)
        assert again.settle("1").swept == ("second",)

    def test_in_place(self, in_place):
        in_place.write(gone=b"g")
        tracker = in_place.tracker()
        tracker.begin()
        in_place.do(tracker, "1", a=b"1")
        in_place.write(script=b"v1", notes=b"n", gone=None)
        again = in_place.tracker()
        assert again.begin() == ("gone", "notes", "script")
        in_place.hit(again, "1")
        settled = again.settle("2")
        assert (settled.swept, settled.restored) == ((), ())
        assert in_place.names() == ["a", "notes", "script"]

    def test_after_a_failed_job(self, in_place):
        tracker = in_place.tracker()
        tracker.begin()
        tracker.settle("1")
        in_place.write(partial=b"p")
        tracker.failed()
        in_place.write(script=b"v1", notes=b"n")
        again = in_place.tracker()
        assert again.begin() == ("notes", "script")
        assert again.settle("1").swept == ("partial",)
        assert in_place.names() == ["notes", "script"]

    def test_during_a_killed_job_are_moved_aside_with_what_it_left(self, in_place):
        tracker = in_place.tracker()
        tracker.begin()
        tracker.settle("1")
        in_place.write(partial=b"p", script=b"v1")
        again = in_place.tracker()
        assert again.begin() == ()
        settled = again.settle("1")
        assert settled.swept == ("partial", "script")
        assert in_place.read("script") == b"v0"
        assert (settled.swept_to / "script").read_bytes() == b"v1"

    def test_after_a_killed_job_whose_end_is_known(self, in_place):
        tracker = in_place.tracker()
        tracker.begin()
        tracker.settle("1")
        in_place.write(partial=b"p")
        ended = time.time()
        later = int((ended + 10) * 1e9)
        in_place.write(script=b"v1")

        real = os.lstat

        class Later:
            st_mtime_ns = st_ctime_ns = later

        again = in_place.tracker()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "lstat", lambda path: Later if str(path).endswith("script") else real(path))
            assert again.begin(quiet_since=ended) == ("script",)
        assert again.settle("1").swept == ("partial",)

    def test_older_files_are_never_touched(self, in_place):
        tracker = in_place.tracker()
        tracker.begin()
        in_place.write(notes=b"n")
        while time.time_ns() - (in_place.workspace / "notes").stat().st_ctime_ns < 50_000_000:
            time.sleep(0.01)
        tracker.settle("1")  # its look is from the beginning: notes are unknown to it
        in_place.write(partial=b"p")
        again = in_place.tracker()
        assert again.begin() == ("notes",)
        assert again.settle("1").swept == ("partial",)


def test_a_hit_after_a_repeated_job_still_counts_as_later(tmp_path):
    """Without kept copies: job 2 replaced what job 1 made; job 1 is repeated, job 2 is not."""
    world = World(tmp_path, budget_mib=0)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", made=b"1")
    tracker.settle("2")
    (world.workspace / "made").unlink()
    (world.workspace / "made").mkdir()
    world.store["2"] = tracker.changes()
    tracker.accept("2", *world.store["2"])
    world.do(tracker, "3", last=b"3")
    tracker.begin()
    world.do(tracker, "1", made=b"1")
    world.hit(tracker, "2")
    world.do(tracker, "3", last=b"3")
    tracker.settle(None)
    tracker = world.tracker()
    tracker.begin()
    for identity in "123":
        world.hit(tracker, identity)


def test_a_source_that_nobody_can_restore_is_named(tmp_path):
    world = World(tmp_path, in_place=True, budget_mib=0)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", script=b"changed", a=b"1")
    again = world.tracker()
    again.begin()
    with pytest.raises(StartOver):
        again.settle("1")
    with pytest.raises(InfrastructureError, match=r"script.*put the original back"):
        again.reset()
    assert world.names() == ["a", "script"]


def test_a_budget_bounds_what_is_kept(tmp_path):
    world = World(tmp_path, budget_mib=1)
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", small=b"s", large=b"l" * (1 << 20), another=b"a")
    kept = {path.stat().st_size for path in (world.state / "versions").iterdir()}
    assert kept <= {1, 2, 1 << 20}
    assert sum(path.stat().st_size for path in (world.state / "versions").iterdir()) <= 1 << 20


def test_a_damaged_copy_is_not_used(world):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", table=b"one")
    world.do(tracker, "2", table=b"two")
    for path in (world.state / "versions").iterdir():
        path.write_bytes(b"damaged")
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    with pytest.raises(StartOver):
        again.settle("2")


def test_a_full_disk_keeps_no_copies_and_fails_no_job(world, monkeypatch):
    tracker = world.tracker()
    tracker.begin()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tracker.settle("1")
    world.write(a=b"1")
    found = tracker.changes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full, raising=False)
        tracker.accept("1", *found)
    assert world.tracker().begin() == ()


def test_a_journal_that_cannot_grow_stays_whole(world, monkeypatch):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(a=b"1")
    found = tracker.changes()
    real = os.write

    def almost_full(file, content):
        if len(content) > 10:
            return real(file, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", almost_full)
        with pytest.raises(InfrastructureError, match=r"journal.*free some space"):
            tracker.accept("1", *found)
    tracker.accept("1", *found)
    again = world.tracker()
    again.begin()
    again.hit("1", *found)
    assert again.settle(None).swept == ()


def test_a_damaged_journal_says_where(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.close()
    journal = world.state / "journal"
    journal.write_bytes(b"damage\n" + journal.read_bytes())
    with pytest.raises(InfrastructureError, match="journal:1: damaged"):
        world.tracker()


@pytest.mark.parametrize("name", ["new\nline", "ünï", "-rf", "n" * 255, os.fsdecode(b"\xff\xfe"), "swept"])
def test_odd_names(world, name):
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", **{name: b"one", f"d/{name}": b"1"})
    world.do(tracker, "2", **{name: b"two", f"d/{name}": None})
    tracker.close()
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    again.settle("2")
    assert (world.read(name), world.read(f"d/{name}")) == (b"one", b"1")


def test_links_a_job_left_lead_nowhere_when_files_are_restored(world, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "table").write_bytes(b"precious")
    tracker = world.tracker()
    tracker.begin()
    world.do(tracker, "1", **{"d/table": b"one", "e/table": b"one"})
    tracker.settle("2")
    (world.workspace / "d/table").unlink()
    (world.workspace / "d").rmdir()
    (world.workspace / "d").symlink_to(outside)
    (world.workspace / "e/table").unlink()
    (world.workspace / "e/table").symlink_to(outside / "table")
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    again.settle("2")
    assert not (world.workspace / "d").is_symlink()
    assert world.read("d/table") == world.read("e/table") == b"one"
    assert (outside / "table").read_bytes() == b"precious"
    assert [path.name for path in outside.iterdir()] == ["table"]


def test_a_directory_with_a_socket_is_moved_aside_whole(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(**{"d/file": b"x"})
    os.mkfifo(world.workspace / "d/pipe")
    settled = tracker.settle("1")
    assert settled.swept == ("d", "d/file")
    assert world.names() == ["script"]


def test_read_only_directories_are_undone_too(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(**{"d/e/file": b"x"})
    (world.workspace / "d/e").chmod(0o500)
    (world.workspace / "d").chmod(0o500)
    assert tracker.settle("1").swept == ("d", "d/e", "d/e/file")
    assert world.names() == ["script"]


def test_moving_aside_to_another_file_system(world, monkeypatch):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(**{"d/file": b"x"})
    (world.workspace / "link").symlink_to("nowhere")
    real = os.rename

    def rename(source, target, **options):
        if not options:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    settled = tracker.settle("1")
    assert world.names() == ["script"]
    assert (settled.swept_to / "d/file").read_bytes() == b"x"
    assert (settled.swept_to / "link").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_named(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(closed=b"x")
    (world.workspace / "closed").chmod(0)
    with pytest.raises(InfrastructureError, match=r"closed.*permissions"):
        tracker.changes()


def test_times_and_modes_come_back(world):
    tracker = world.tracker()
    tracker.begin()
    tracker.settle("1")
    world.write(tool=b"#!", plain=b"#!")
    (world.workspace / "tool").chmod(0o755)
    os.utime(world.workspace / "tool", ns=(10**18, 10**18))
    found = tracker.changes()
    tracker.accept("1", *found)
    world.store["1"] = found
    world.do(tracker, "2", tool=None, plain=None)
    again = world.tracker()
    again.begin()
    world.hit(again, "1")
    again.settle("2")
    assert os.access(world.workspace / "tool", os.X_OK)
    assert not (world.workspace / "plain").stat().st_mode & 0o111
    assert (world.workspace / "tool").stat().st_mtime_ns == 10**18


def test_one_walk_for_each_job(world, monkeypatch):
    tracker = world.tracker()
    walks = []
    real = WorkspaceTracker._walk
    monkeypatch.setattr(WorkspaceTracker, "_walk", lambda self: walks.append(1) or real(self))
    tracker.begin()
    for number in range(10):
        world.do(tracker, str(number), **{f"f{number}": b"x"})
    tracker.settle(None)
    assert len(walks) == 11
    again = world.tracker()
    again.begin()
    for number in range(10):
        world.hit(again, str(number))
    again.settle(None)
    assert len(walks) == 12


def test_a_socket_in_the_workspace_of_a_run_in_place(in_place, monkeypatch):
    monkeypatch.chdir(in_place.workspace)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("agent")
        tracker = in_place.tracker()
        tracker.begin()
        in_place.do(tracker, "1", a=b"1")
        assert in_place.names() == ["a", "agent", "script"]
