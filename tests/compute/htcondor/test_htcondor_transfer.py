"""Archives of jobs whose files are transferred: what goes in, and what is taken out."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from drawbar.backend import Attempt
from drawbar.batch import Batch
from drawbar.batchcalls import Rejected
from drawbar.batchscript import Submitted
from drawbar.model import Input, JobSpec, Mount, Reason, Resources, WorkspaceNeed
from drawbar.runtime import Runtime
from drawbar_htcondor import transfer
from drawbar_htcondor.backend import HTCondorBackend


@pytest.fixture
def attempt(tmp_path):
    """A job with its own directory, which reads a file and a directory of the workspace."""
    workspace, own, record = (tmp_path / name for name in ("work space", "own", "record"))
    for directory in (workspace / "many", own / "out", own / "in", record / "batch"):
        directory.mkdir(parents=True)
    (workspace / "a.txt").write_text("a")
    (workspace / "many" / "b.txt").write_text("b")
    (workspace / "link.txt").symlink_to("a.txt")
    (workspace / "secret").touch()
    (own / "in" / "x").symlink_to(workspace / "a.txt")
    (own / "out" / "before").touch()
    (record / "job").write_text("#!/bin/bash\n")
    spec = JobSpec(
        identity="a",
        name="a",
        step="a",
        argv=("true",),
        directory=str(own / "out"),
        canonical=None,
        inputs=tuple(Input(path=str(workspace / name), name=name) for name in ("a.txt", "link.txt", "many")),
        mounts=(
            Mount(source=str(own), target=str(own)),
            Mount(source=str(tmp_path), target=str(tmp_path), read_only=True),
        ),
        collection_root=str(own / "out"),
        workspace=WorkspaceNeed.DECLARED,
    )
    return Attempt(tag="t", run="r", number=1, record=str(record), workspace=str(workspace), spec=spec)


def place(attempt):
    return Submitted(batch="t", index=0, directory=f"{attempt.record}/batch")


def came(attempt, *members, links=()):
    """An archive that came back, with files (path, text) and links (path, target)."""
    (Path(attempt.record) / "batch" / "output").mkdir()
    with tarfile.open(f"{attempt.record}/batch/output/1.tar", "w") as archive:
        for path, text in members:
            info = tarfile.TarInfo(f".{path}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
        for path, target in links:
            info = tarfile.TarInfo(f".{path}")
            info.type, info.linkname = tarfile.SYMTYPE, str(target)
            archive.addfile(info)


def test_what_a_job_needs_is_packed_and_nothing_else(attempt):
    transfer.pack([attempt], f"{attempt.record}/batch")
    with tarfile.open(f"{attempt.record}/batch/input/1.tar") as archive:
        members = {f"/{each.name}": each for each in archive.getmembers()}
    own, workspace = Path(attempt.spec.collection_root).parent, attempt.workspace
    files = {path for path, each in members.items() if each.isfile()}
    assert files == {
        f"{own}/out/before",
        f"{workspace}/a.txt",
        f"{workspace}/link.txt",
        f"{workspace}/many/b.txt",
        f"{attempt.record}/job",
    }
    assert members[f"{own}/in/x"].linkname == f"{workspace}/a.txt"


def test_an_input_that_is_not_there_is_a_refusal(attempt):
    shutil.rmtree(f"{attempt.workspace}/many")
    backend = HTCondorBackend(HTCondorBackend.Options.parse({"transfer": True}, where="test"))
    batch = Batch(
        name="t", directives=(), attempts=(attempt,), array=False, directory=f"{attempt.record}/batch"
    )
    with pytest.raises(Rejected, match=r"cannot be packed: the input .*many is not there"):
        backend.hand_over(batch)


def test_the_whole_collection_root_comes_back(attempt):
    root = attempt.spec.collection_root
    came(
        attempt,
        (f"{root}/sub/result", "r"),
        (f"{attempt.record}/stdout", "said"),
        (f"{attempt.record}/end", "exit=0\n"),
        links=[(f"{root}/link", "sub/result")],
    )
    transfer.collect(attempt, place(attempt))
    assert Path(root, "link").read_text() == "r"
    assert not Path(root, "before").exists()
    assert Path(attempt.record, "stdout").read_text() == "said"
    assert Path(attempt.record, "end").read_text() == "exit=0\n"
    assert not Path(attempt.record, "batch", "output", "1.tar").exists()
    transfer.collect(attempt, place(attempt))
    assert Path(root, "link").exists()


def test_only_what_was_asked_for_is_taken(attempt, tmp_path):
    """An archive is the job's word: it must not reach what is not the job's."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    root = attempt.spec.collection_root
    came(
        attempt,
        (f"{attempt.workspace}/secret", "changed"),
        ("/../../escaped", "out"),
        (f"{attempt.record}/job", "changed"),
        (f"{attempt.record}/end", "exit=0\n"),
        links=[(root, victim)],
    )
    transfer.collect(attempt, place(attempt))
    assert Path(attempt.workspace, "secret").read_text() == ""
    assert Path(attempt.record, "job").read_text() == "#!/bin/bash\n"
    assert list(victim.iterdir()) == [victim / "kept"]
    assert not Path(root).is_symlink()
    assert not list(tmp_path.rglob("escaped"))


def test_a_link_on_the_way_is_not_followed(attempt, tmp_path):
    victim = tmp_path / "victim"
    (victim / "out").mkdir(parents=True)
    (victim / "out" / "theirs").touch()
    came(
        attempt,
        (f"{attempt.record}/end", "exit=0\n"),
        links=[(str(Path(attempt.spec.collection_root).parent), victim)],
    )
    transfer.collect(attempt, place(attempt))
    assert (victim / "out" / "theirs").exists()
    assert not Path(attempt.spec.collection_root, "theirs").exists()


def test_an_archive_that_is_cut_off_tells_nothing(attempt):
    came(attempt, (f"{attempt.record}/end", "exit=0\n"))
    archive = Path(attempt.record, "batch", "output", "1.tar")
    archive.write_bytes(archive.read_bytes()[:700])
    transfer.collect(attempt, place(attempt))
    assert not Path(attempt.record, "end").exists()


# on a pool whose machines do not see the files


@pytest.mark.htcondor
def test_jobs_on_machines_that_see_no_files(open_driver, hidden):
    driver = open_driver(hidden, transfer=True)
    attempts = []
    for number in range(3):
        own = hidden / f"job {number}"
        (own / "out").mkdir(parents=True)
        (own / "x").write_text(str(number))
        attempts.append(
            driver.shell(
                'mkdir -p sub/empty; cat "$1" > sub/copy; ln -s sub/copy link; echo said; exit $(cat "$1")',
                str(own / "x"),
                directory=str(own / "out"),
                collection_root=str(own / "out"),
                inputs=(Input(path=str(own / "x"), name="x"),),
                workspace=WorkspaceNeed.DECLARED,
            )
        )
    driver.run(*attempts)
    results = [driver.end(attempt) for attempt in attempts]
    assert [result.exit_code for result in results] == [0, 1, 2]
    for number, result in enumerate(results):
        out = hidden / f"job {number}" / "out"
        assert (out / "link").read_text() == str(number)
        assert (out / "sub" / "empty").is_dir()
        assert Path(result.stdout).read_text() == "said\n"


@pytest.mark.htcondor
def test_limits_and_cancelling_where_files_are_transferred(open_driver, hidden):
    driver = open_driver(hidden, transfer=True)
    fields = {"directory": "/", "workspace": WorkspaceNeed.NONE}
    long = driver.shell("sleep 100", resources=Resources(walltime_s=1), **fields)
    stopped = driver.shell("sleep 100", **fields)
    driver.run(long, stopped)
    assert driver.end(long).reason is Reason.TIMEOUT
    driver.cancel(stopped)
    assert driver.end(stopped).reason is Reason.CANCELLED


@pytest.mark.htcondor
def test_a_job_in_an_image_on_a_machine_that_sees_no_files(open_driver, hidden, image):
    """With the Apptainer of that machine, in an image that it has; the whole collection root comes back."""
    driver = open_driver(hidden, Runtime(), transfer=True)
    own = driver.directory / "job"
    (own / "out" / "old").mkdir(parents=True)
    (own / "x").write_text("travelled")
    attempt = driver.shell(
        "cat /etc/image $1; echo $WORD; rmdir old; mkdir -p sub/empty; cp $1 sub/copy; ln -s sub/copy link; "
        "touch /tmp/here; exit 3",
        str(own / "x"),
        image=image,
        environment={"WORD": "$(it) `was` said"},
        directory=str(own / "out"),
        collection_root=str(own / "out"),
        inputs=(Input(path=str(own / "x"), name="x"),),
        mounts=(Mount(source=str(own), target=str(own)),),
        workspace=WorkspaceNeed.DECLARED,
    )
    driver.run(attempt)
    result = driver.end(attempt)
    said = Path(result.stdout).read_text()
    assert (result.exit_code, said) == (3, "drawbar\ntravelled$(it) `was` said\n"), result
    assert sorted(path.name for path in (own / "out").iterdir()) == ["link", "sub"]
    assert (own / "out" / "link").read_text() == "travelled"
    assert (own / "out" / "sub" / "empty").is_dir()
