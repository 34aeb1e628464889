import hashlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawbar.digests import Digests
from drawbar.errors import InfrastructureError, SpecError
from drawbar.model import Keep
from drawbar.publish import discard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OLD = 1_500_000_000_000_000_000


@pytest.fixture
def memo(tmp_path):
    return tmp_path / "memo"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def reads(monkeypatch):
    """The paths of files that were read."""
    seen = []
    read = Digests._read

    def spy(self, path):
        seen.append(os.fspath(path))
        return read(self, path)

    monkeypatch.setattr(Digests, "_read", spy)
    return seen


def sha(content):
    return hashlib.sha256(content).hexdigest()


def settle_clock(path):
    """Wait until the file is older than the granularity of time stamps."""
    while time.time_ns() - path.stat().st_ctime_ns < 50_000_000:
        time.sleep(0.01)


def test_a_file_is_read_once_even_by_another_process(memo, root, reads):
    path = root / "file"
    path.write_bytes(b"content")
    settle_clock(path)
    digests = Digests(memo)
    assert digests.file(path) == digests.file(str(path)) == sha(b"content")
    assert len(reads) == 1
    digests.close()
    assert Digests(memo).file(path) == sha(b"content")
    assert len(reads) == 1


@pytest.mark.parametrize("size", [0, (1 << 18) - 1, 1 << 18, 3_000_000])
def test_sizes(memo, root, size):
    content = os.urandom(size)
    (root / "file").write_bytes(content)
    assert Digests(memo).file(root / "file") == sha(content)


def test_a_change_that_keeps_size_and_time_is_seen(memo, root):
    path = root / "file"
    path.write_bytes(b"one")
    os.utime(path, ns=(OLD, OLD))
    settle_clock(path)
    digests = Digests(memo)
    assert digests.file(path) == sha(b"one")
    path.write_bytes(b"two")
    os.utime(path, ns=(OLD, OLD))
    assert digests.file(path) == sha(b"two")


def test_a_file_just_written_is_not_remembered(memo, root):
    path = root / "file"
    digests = Digests(memo)
    for number in range(200):
        content = b"%04d" % number
        with path.open("r+b" if number else "wb") as file:
            file.write(content)
        assert digests.file(path) == sha(content)


def test_a_torn_and_mixed_up_memory_costs_reading_only(memo, root, reads):
    paths = [root / str(number) for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    for path in paths:
        settle_clock(path)
    digests = Digests(memo)
    for path in paths:
        digests.file(path)
    digests.close()
    whole = memo.read_bytes()
    for cut in range(len(whole)):
        memo.write_bytes(whole[:cut])
        other = Digests(memo)
        for path in paths:
            assert other.file(path) == sha(path.name.encode())
        other.close()
        reads.clear()
        again = Digests(memo)
        for path in paths:
            again.file(path)
        assert not reads


@settings(max_examples=50, suppress_health_check=list(HealthCheck), deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_in_the_memory(tmp_path_factory, noise):
    directory = tmp_path_factory.mktemp("noise")
    (directory / "memo").write_bytes(noise)
    (directory / "file").write_bytes(b"x")
    assert Digests(directory / "memo").file(directory / "file") == sha(b"x")


def test_many_processes_write_one_memory(memo, root, reads):
    for number in range(40):
        (root / str(number)).write_bytes(b"%d" % number)
    settle_clock(root / "39")
    code = (
        "import sys; from pathlib import Path; from drawbar.digests import Digests\n"
        "memo, *paths = map(Path, sys.argv[1:])\n"
        "digests = Digests(memo)\n"
        "for path in paths: digests.file(path); digests.flush()\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, memo, *sorted(root.iterdir())[part::2]])
        for part in (0, 1)
    ]
    assert [child.wait() for child in children] == [0, 0]
    digests = Digests(memo)
    for path in root.iterdir():
        assert digests.file(path) == sha(path.name.encode())
    assert not reads


def test_a_memory_that_cannot_be_written_is_no_trouble(tmp_path, root):
    (root / "file").write_bytes(b"x")
    settle_clock(root / "file")
    digests = Digests(tmp_path / "no" / "such" / "place")
    assert digests.file(root / "file") == sha(b"x")
    digests.close()


def test_special_files_are_refused_without_waiting(memo, root):
    os.mkfifo(root / "pipe")
    digests = Digests(memo)
    for ask in (digests.file, digests.content, lambda path: digests.record(path, root)):
        with pytest.raises(SpecError, match="pipe is a named pipe"):
            ask(root / "pipe")
    with pytest.raises(SpecError, match="pipe is a named pipe"):
        digests.tree(root)
    with pytest.raises(SpecError, match="device"):
        digests.file("/dev/null")


def test_what_is_missing(memo, root):
    digests = Digests(memo)
    (root / "loop").symlink_to("loop")
    (root / "file").write_bytes(b"")
    for path in ("missing", "loop", "file/inner"):
        with pytest.raises(FileNotFoundError):
            digests.content(root / path)
        with pytest.raises(FileNotFoundError):
            digests.tree(root / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(memo, root):
    (root / "closed").write_bytes(b"x")
    (root / "closed").chmod(0)
    with pytest.raises(InfrastructureError, match=r"closed.*permissions"):
        Digests(memo).file(root / "closed")


def test_a_file_that_somebody_keeps_writing(memo, root, monkeypatch):
    path = root / "file"
    path.write_bytes(b"x")
    real = hashlib.sha256

    def write_meanwhile(*content):
        with path.open("ab") as file:
            file.write(b"x")
        return real(*content)

    monkeypatch.setattr(hashlib, "sha256", write_meanwhile)
    with pytest.raises(InfrastructureError, match="keeps writing"):
        Digests(memo).file(path)


class TestTree:
    def make(self, root):
        (root / "b" / "c").mkdir(parents=True)
        (root / "a").write_bytes(b"1")
        (root / "b" / "c" / "d").write_bytes(b"2")
        return root

    def test_the_same_tree_elsewhere_is_the_same(self, memo, tmp_path):
        digests = Digests(memo)
        one, two = self.make(tmp_path / "one"), self.make(tmp_path / "two")
        for tree in (one, two):
            (tree / "link").symlink_to(tree / "b" / "c")
            (tree / "b" / "up").symlink_to("..")
        assert digests.tree(one) == digests.tree(two)

    @pytest.mark.parametrize(
        "change",
        [
            lambda root: (root / "a").write_bytes(b"3"),
            lambda root: (root / "a").chmod(0o755),
            lambda root: (root / "a").rename(root / "aa"),
            lambda root: (root / "b" / "c" / "d").rename(root / "b" / "d"),
            lambda root: (root / "new").mkdir(),
            lambda root: (root / "a").unlink(),
            lambda root: (root / "new").symlink_to("a"),
            lambda root: ((root / "a").unlink(), (root / "a").mkdir()),
        ],
    )
    def test_every_change_counts(self, memo, tmp_path, change):
        digests = Digests(memo)
        root = self.make(tmp_path / "root")
        before = digests.tree(root)
        change(root)
        assert digests.tree(root) != before

    def test_times_do_not_count(self, memo, tmp_path):
        digests = Digests(memo)
        root = self.make(tmp_path / "root")
        before = digests.tree(root)
        os.utime(root / "a", ns=(OLD, OLD))
        assert digests.tree(root) == before

    def test_what_a_link_leads_out_to_counts(self, memo, tmp_path):
        digests = Digests(memo)
        root = self.make(tmp_path / "root")
        outside = self.make(tmp_path / "outside")
        (root / "file").symlink_to(outside / "a")
        (root / "directory").symlink_to(outside / "b")
        before = digests.tree(root)
        (outside / "b" / "c" / "d").write_bytes(b"changed")
        between = digests.tree(root)
        (outside / "a").write_bytes(b"changed")
        assert len({before, between, digests.tree(root)}) == 3

    def test_links_never_go_round(self, memo, tmp_path):
        root, outside = self.make(tmp_path / "root"), tmp_path / "outside"
        outside.mkdir()
        (root / "out").symlink_to(outside)
        (outside / "back").symlink_to(root)
        (outside / "self").symlink_to(outside)
        (root / "loop").symlink_to("loop")
        (root / "broken").symlink_to("/no/such/place")
        assert Digests(memo).tree(root) == Digests(memo).tree(root)

    def test_links_do_not_multiply(self, memo, tmp_path):
        levels = [tmp_path / f"level{number}" for number in range(40)]
        for level in levels:
            level.mkdir()
        for here, there in itertools.pairwise(levels):
            (here / "left").symlink_to(there)
            (here / "right").symlink_to(there)
        assert Digests(memo).tree(levels[0])

    def test_nested_deeper_than_the_stack(self, memo, root):
        here = Path.cwd()
        os.chdir(root)
        try:
            for _ in range(1200):
                Path("d").mkdir()
                os.chdir("d")
        finally:
            os.chdir(here)
        assert Digests(memo).tree(root)
        discard(root, Keep.NONE)  # too deep for who cleans up after tests

    @settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
    @given(
        files=st.dictionaries(
            st.text(
                st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
            ),
            st.binary(max_size=5),
            max_size=5,
        )
    )
    def test_any_names(self, tmp_path_factory, files):
        directory = tmp_path_factory.mktemp("names")
        files = {name: content for name, content in files.items() if name not in (".", "..")}
        roots = [directory / "one", directory / "two"]
        for root, names in zip(roots, (list(files), list(reversed(files))), strict=True):
            root.mkdir()
            for name in names:
                (root / name).write_bytes(files[name])
        digests = Digests(directory / "memo")
        assert digests.tree(roots[0]) == digests.tree(roots[1])


class TestRecords:
    def test_a_file(self, memo, root):
        (root / "d").mkdir()
        path = root / "d" / "f"
        path.write_bytes(b"12345")
        path.chmod(0o755)
        os.utime(path, ns=(OLD, OLD))
        record = Digests(memo).record(path, root)
        assert (record.path, record.size, record.mtime_ns) == ("d/f", 5, OLD)
        assert (record.sha256, record.kind, record.executable) == (sha(b"12345"), "file", True)

    def test_a_directory(self, memo, root):
        (root / "d").mkdir()
        for number in range(3):
            (root / "d" / str(number)).write_bytes(b"xy")
        os.utime(root / "d" / "1", ns=(OLD, OLD * 2))
        digests = Digests(memo)
        record = digests.record(root / "d", root)
        assert (record.size, record.mtime_ns, record.kind) == (6, OLD * 2, "directory")
        assert record.sha256 == digests.tree(root / "d") == digests.content(root / "d")

    def test_verification_goes_by_content(self, memo, root, reads):
        path = root / "f"
        path.write_bytes(b"12345")
        (root / "d").mkdir()
        settle_clock(path)
        digests = Digests(memo)
        records = [digests.record(path, root), digests.record(root / "d", root)]
        reads.clear()
        assert all(digests.verify(record, root) for record in records)
        assert not reads
        path.touch()
        assert digests.verify(records[0], root)
        path.write_bytes(b"1234")
        reads.clear()
        assert not digests.verify(records[0], root)
        assert not reads
        path.write_bytes(b"54321")
        assert not digests.verify(records[0], root)
        path.unlink()
        assert not digests.verify(records[0], root)
        path.mkdir()
        assert not digests.verify(records[0], root)
        (root / "d").rmdir()
        (root / "d").write_bytes(b"")
        assert not digests.verify(records[1], root)
