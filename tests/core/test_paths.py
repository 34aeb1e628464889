"""No path from a specification leads out of the directory it belongs to."""

import os
import posixpath

import pytest
from drawbar.errors import SpecError
from drawbar.paths import existing, inside, normal, walk
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "f").write_text("")
    root = tmp_path / "root"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "data" / "a.csv").write_text("a")
    (root / "data" / "deep" / "b.csv").write_text("b")
    (root / "data" / ".hidden").write_text("h")
    return root


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", "a"),
        ("./a/", "a"),
        ("a//b/./c", "a/b/c"),
        ("a/../b", "b"),
        ("a b/ü", "a b/ü"),
        ("..a/b..", "..a/b.."),
        ("-rf", "-rf"),
        ("~/a", "~/a"),
    ],
)
def test_shortest_spelling(text, path):
    assert normal(text, "x") == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no file"),
        (".", "names no file"),
        ("a/..", "names no file"),
        ("/etc/passwd", "is absolute"),
        ("//a", "is absolute"),
        ("..", "leaves"),
        ("../a", "leaves"),
        ("a/../../b", "leaves"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x7f", "control character"),
        ("a/" * 5000, "longer than 4096"),
    ],
)
def test_paths_that_are_refused(text, message):
    with pytest.raises(SpecError, match=message) as caught:
        normal(text, "outputs.files.0")
    (problem,) = caught.value.problems
    assert problem.message.startswith("outputs.files.0: ")
    assert problem.hint
    assert len(problem.message) < 200


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b"]), max_size=8).map("/".join))
def test_what_is_accepted_stays_inside(text):
    try:
        path = normal(text, "x")
    except SpecError:
        return
    assert posixpath.normpath(posixpath.join("/base", text)) == f"/base/{path}"


def test_inside_follows_links(root):
    (root / "good").symlink_to("data/a.csv")
    (root / "bad").symlink_to("../outside/secret")
    (root / "absolute").symlink_to("/etc")
    (root / "near").symlink_to("../root-too")
    (root / "dangling").symlink_to("../nowhere")
    (root / "loop").symlink_to("loop")
    assert inside(root, "good", "x") == root / "good"
    assert inside(root, "new/file", "x") == root / "new" / "file"
    for text in ("bad", "absolute", "absolute/passwd", "near/f", "dangling"):
        with pytest.raises(SpecError, match="leads out"):
            inside(root, text, "outputs.files.0")


def test_a_root_behind_a_link_is_fine(root):
    (root.parent / "alias").symlink_to(root)
    assert existing(root.parent / "alias", "data/a.csv", "x").read_text() == "a"
    assert inside(root.parent / "alias", "data/a.csv", "x") == root.parent / "alias" / "data" / "a.csv"


def test_existing(root):
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    assert existing(root, "data/a.csv", "x") == root / "data" / "a.csv"
    assert existing(root, "data/", "x", directory=True) == root / "data"
    for text, directory, message in (
        ("data/b.csv", False, r"does not exist \(did you mean 'a.csv'\?\)"),
        ("nowhere/b.csv", False, "does not exist$"),
        ("data", False, "is a directory"),
        ("data/a.csv", True, "is not a directory"),
        ("data/a.csv/b", False, "cannot be read: Not a directory"),
        ("loop", False, "cannot be read: Too many levels"),
        ("x" * 300, False, "cannot be read: File name too long"),
        ("pipe", False, "is not a regular file"),
    ):
        with pytest.raises(SpecError, match=message):
            existing(root, text, "x", directory=directory)


def test_walk_yields_all_in_order(root):
    (root / "data" / "empty").mkdir()
    (root / "data" / "link.csv").symlink_to("a.csv")
    (root / "data" / "same").symlink_to("deep")
    entries = list(walk(root, "data/", "x"))
    assert [(entry.path, entry.directory) for entry in entries] == [
        ("data", True),
        ("data/.hidden", False),
        ("data/a.csv", False),
        ("data/link.csv", False),
        ("data/deep", True),
        ("data/deep/b.csv", False),
        ("data/empty", True),
        ("data/same", True),
        ("data/same/b.csv", False),
    ]
    assert all(entry.source == root / entry.path for entry in entries)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../../../outside/secret", "'data/deep/link' is a symbolic link that leads out"),
        ("../../../outside", "leads out"),
        ("..", "a link to a directory that it is in"),
        ("../../data", "a link to a directory that it is in"),
        ("missing", "a symbolic link to nothing"),
        ("link", "cannot be read: Too many levels"),
    ],
)
def test_walk_refuses_links(root, target, message):
    (root / "data" / "deep" / "link").symlink_to(target)
    with pytest.raises(SpecError, match=message):
        list(walk(root, "data", "inputs.directories.0"))
    paths = [entry.path for entry in walk(root, "data", "x", listed=False)]
    assert paths == ["data", "data/a.csv", "data/deep", "data/deep/b.csv"]


def test_walk_refuses_what_is_neither_file_nor_directory(root):
    os.mkfifo(root / "data" / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a directory"):
        list(walk(root, "data", "x"))


def test_walk_ends_where_links_multiply(root):
    for level in range(40):
        (root / f"d{level}").mkdir()
        for name in "ab":
            (root / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    (root / "d40").mkdir()
    with pytest.raises(SpecError, match="link"):
        list(walk(root, "d0", "x"))
