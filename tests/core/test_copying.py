import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from drawbar import copying
from drawbar.copying import (
    TEMPORARY,
    clone_file,
    copy_file,
    copy_tree,
    link_or_copy,
    make_directories,
    make_inputs,
    make_link,
    printable,
    relative_path,
)
from drawbar.errors import InfrastructureError, SpecError

ODD_NAMES = ["new\nline", "ünï", "-rf", "n" * 255, " ", "a'b\"c", os.fsdecode(b"\xff\xfe"), "*?[x]"]
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def leftovers(directory):
    return [path for path in directory.rglob("*") if path.name.startswith(TEMPORARY)]


@pytest.mark.parametrize("copy", [copy_file, link_or_copy])
@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_a_copy_has_content_mode_and_time(tmp_path, copy, size):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    source.chmod(0o750)
    os.utime(source, ns=(1, 1_000_000_000_123_456_789))
    copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    assert target.stat().st_mtime_ns == 1_000_000_000_123_456_789


def test_a_durable_copy(tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    copy_file(tmp_path / "source", tmp_path / "target", durable=True)
    assert (tmp_path / "target").read_bytes() == b"x"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "out").mkdir()
    copy_file(tmp_path / "in" / name, tmp_path / "out" / name)
    copy_tree(tmp_path / "in", tmp_path / "tree", tmp_path)
    assert names(tmp_path / "out") == names(tmp_path / "tree") == [name]
    printable(tmp_path / name).encode()
    assert "\n" not in printable(name)


def test_set_user_id_is_not_copied(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    source.chmod(0o4755)
    copy_file(source, tmp_path / "target")
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o755


@pytest.mark.parametrize("copy", [copy_file, link_or_copy])
def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path, copy):
    victim, source, target = tmp_path / "victim", tmp_path / "source", tmp_path / "target"
    victim.write_bytes(b"precious")
    source.write_bytes(b"new")
    target.symlink_to(victim)
    copy(source, target)
    assert victim.read_bytes() == b"precious"
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"


def test_make_link_replaces_a_link(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "link").symlink_to("victim")
    make_link("elsewhere", tmp_path / "link")
    assert (tmp_path / "link").readlink() == Path("elsewhere")
    assert names(tmp_path / "victim") == []


def test_link_or_copy_onto_a_link_to_the_same_file_leaves_nothing_behind(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    link_or_copy(source, tmp_path / "target")
    link_or_copy(source, tmp_path / "target")
    assert names(tmp_path) == ["source", "target"]


def test_link_or_copy_across_file_systems(tmp_path, monkeypatch):
    def link(*args, **options):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "source").write_bytes(b"x")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x"


def test_without_help_of_the_kernel(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    content = os.urandom((2 << 20) + 17)
    (tmp_path / "source").write_bytes(content)
    copy_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content
    monkeypatch.delattr(os, "copy_file_range")
    copy_file(tmp_path / "source", tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == content


def test_a_clone_or_nothing(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 10000)
    monkeypatch.setattr(copying, "_clone", lambda reader, writer: False)
    assert not clone_file(source, target)
    assert names(tmp_path) == ["source"]

    def clone(reader, writer):
        os.write(writer, os.read(reader, 1 << 20))
        return True

    monkeypatch.setattr(copying, "_clone", clone)
    assert clone_file(source, target)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("copy", [copy_file, link_or_copy])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_target_and_leaves_it_as_it_was(tmp_path, monkeypatch, copy, number):
    def full(*args, **options):
        raise OSError(number, os.strerror(number))

    for name in ("copy_file_range", "write", "link"):
        monkeypatch.setattr(os, name, full, raising=False)
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(InfrastructureError, match=r"target.*free some space") as caught:
        copy(tmp_path / "source", tmp_path / "target")
    assert caught.value.__cause__.errno == number
    assert (tmp_path / "target").read_bytes() == b"old"
    assert not leftovers(tmp_path)


@not_root
def test_what_may_not_be_read_or_written_is_named(tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InfrastructureError, match=r"closed/target.*permissions"):
        copy_file(tmp_path / "source", tmp_path / "closed" / "target")
    (tmp_path / "source").chmod(0)
    with pytest.raises(InfrastructureError, match=r"read .*source.*permissions"):
        copy_file(tmp_path / "source", tmp_path / "target")


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(InfrastructureError, match="no-such"):
        copy_file(tmp_path / "no-such", tmp_path / "target")


def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InfrastructureError, match="named pipe"):
        copy_file(tmp_path / "pipe", tmp_path / "target")


@pytest.mark.parametrize("text", ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b"])
def test_relative_paths_stay_inside(text):
    with pytest.raises(SpecError):
        relative_path(text)


def test_directories_are_not_made_through_a_link(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InfrastructureError, match=r"link.*a link"):
        make_directories(tmp_path / "root", relative_path("link/inner"))
    assert names(tmp_path / "outside") == []
    assert make_directories(tmp_path / "root", relative_path("a/b")).is_dir()


class TestTrees:
    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / "analysis"
        (root / "data" / "deep").mkdir(parents=True)
        (root / "code").mkdir()
        (root / "data" / "one").write_bytes(b"1")
        (root / "data" / "deep" / "two").write_bytes(b"2")
        (root / "code" / "run.sh").write_bytes(b"echo")
        (root / "code" / "run.sh").chmod(0o755)
        return root

    def test_files_and_directories(self, root, tmp_path):
        (root / "data" / "empty").mkdir()
        workspace = tmp_path / "workspace"
        make_inputs([(root / "data", "data"), (root / "code/run.sh", "bin/go")], root, workspace)
        assert (workspace / "data/deep/two").read_bytes() == b"2"
        assert (workspace / "data/empty").is_dir()
        assert os.access(workspace / "bin/go", os.X_OK)

    def test_again_over_what_is_there(self, root, tmp_path):
        workspace = tmp_path / "workspace"
        for _ in range(2):
            make_inputs([(root / "data", "data")], root, workspace)
        (root / "data/one").write_bytes(b"changed")
        make_inputs([(root / "data", "data")], root, workspace)
        assert (workspace / "data/one").read_bytes() == b"changed"

    def test_links_inside_stay_links(self, root, tmp_path):
        (root / "data/relative").symlink_to("deep/two")
        (root / "data/absolute").symlink_to(root / "data/deep")
        (root / "data/deep/up").symlink_to("..")
        (root / "data/deep/self").symlink_to("self2")
        (root / "data/deep/self2").symlink_to("self")
        workspace = tmp_path / "workspace"
        make_inputs([(root / "data", "data")], root, workspace)
        assert (workspace / "data/relative").readlink() == Path("deep/two")
        assert (workspace / "data/absolute").readlink() == Path("deep")
        assert (workspace / "data/deep/up/one").read_bytes() == b"1"

    def test_a_link_to_a_file_elsewhere_in_the_analysis_becomes_that_file(self, root, tmp_path):
        (root / "data/go").symlink_to("../code/run.sh")
        (root / "top").symlink_to("data")
        workspace = tmp_path / "workspace"
        make_inputs([(root / "data", "data"), (root / "top", "top")], root, workspace)
        assert not (workspace / "data/go").is_symlink()
        assert (workspace / "data/go").read_bytes() == b"echo"
        assert (workspace / "top/one").read_bytes() == b"1"

    def test_everything_wrong_is_told_at_once_and_nothing_is_copied(self, root, tmp_path):
        (tmp_path / "secret").mkdir()
        (root / "data/out").symlink_to(tmp_path / "secret")
        (root / "data/deep/etc").symlink_to("/etc/passwd")
        (root / "data/broken").symlink_to("../../../nowhere")
        os.mkfifo(root / "data/pipe")
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(root / "data")
            try:
                server.bind("socket")
            finally:
                os.chdir(here)
            with pytest.raises(SpecError) as caught:
                make_inputs(
                    [(root / "data", "data"), (root / "missing", "missing"), (tmp_path / "secret", "s")],
                    root,
                    tmp_path / "workspace",
                )
        text = str(caught.value)
        for word in ("data/out", "deep/etc", "broken", "pipe", "socket", "missing", "secret"):
            assert word in text
        assert not (tmp_path / "workspace").exists()

    def test_a_target_out_of_the_workspace(self, root, tmp_path):
        with pytest.raises(SpecError, match=r"\.\./x"):
            make_inputs([(root / "data", "../x")], root, tmp_path / "workspace")

    def test_a_link_in_the_workspace_is_no_way_out(self, root, tmp_path):
        workspace, outside = tmp_path / "workspace", tmp_path / "outside"
        workspace.mkdir()
        outside.mkdir()
        (workspace / "data").symlink_to(outside)
        with pytest.raises(InfrastructureError, match="a link"):
            make_inputs([(root / "data", "data")], root, workspace)
        assert names(outside) == []

    def test_deep_trees(self, root, tmp_path):
        here, depth = Path.cwd(), 300
        os.chdir(root)
        try:
            for _ in range(depth):
                Path("d").mkdir()
                os.chdir("d")
        finally:
            os.chdir(here)
        copy_tree(root, tmp_path / "copy", root)
        assert (tmp_path / "copy").joinpath(*["d"] * depth).is_dir()
