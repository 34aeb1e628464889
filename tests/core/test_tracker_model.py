"""Random jobs, killed at random writes, replayed: the workspace must end as if nothing had happened."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from drawbar.digests import Digests
from drawbar.tracker import StartOver, WorkspaceTracker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

PATHS = ["a", "b", "d/x", "d/e/y", "in1", "src/in2"]
SOURCES = {"in1": b"one", "src/in2": b"two", "src/script": b"v0"}
WRITES = ("write", "rename", "unlink", "rmdir", "mkdir", "symlink", "ftruncate", "copy_file_range", "chmod")


class Killed(BaseException):
    pass


class Fault:
    """Lets `writes` calls that change the disk happen, half of the last one, and nothing afterwards."""

    def __init__(self, writes=1_000_000, *, after=True):
        self.left = writes
        self.after = after
        self.dead = False

    def __enter__(self):
        self.saved = {name: getattr(os, name) for name in (*WRITES, "replace")}
        for name, real in self.saved.items():
            setattr(os, name, self.wrap(name, real))
        return self

    def __exit__(self, *_):
        for name, real in self.saved.items():
            setattr(os, name, real)

    def wrap(self, name, real):
        def call(*args, **options):
            if self.dead:
                raise Killed
            self.left -= 1
            if self.left > 0:
                return real(*args, **options)
            self.dead = True
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif self.after:
                real(*args, **options)
            raise Killed

        return call

    @contextlib.contextmanager
    def elsewhere(self):
        """What another process writes is not counted."""
        mine = {name: getattr(os, name) for name in self.saved}
        for name, real in self.saved.items():
            setattr(os, name, real)
        try:
            yield
        finally:
            for name, wrapped in mine.items():
                setattr(os, name, wrapped)

    def job(self):
        """A step of a job, which may be killed like everything else."""
        if self.dead:
            raise Killed
        self.left -= 1
        if self.left <= 0:
            self.dead = True
            raise Killed


def clear(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def act(root, step):
    """One step of a job: deterministic, and dependent on what is there."""
    what, name, text = step
    path = root / name
    if what == "delete":
        clear(path)
        return
    for above in reversed(path.relative_to(root).parents[:-1]):
        place = root / above
        if not place.is_dir() or place.is_symlink():
            clear(place)
            place.mkdir()
    if what == "append":
        old = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        clear(path)
        path.write_bytes(old + text)
    elif what == "write":
        if path.is_symlink() or path.is_dir():
            clear(path)
        path.write_bytes(text)
    elif what == "mkdir":
        clear(path)
        path.mkdir()
    elif what == "link":
        clear(path)
        path.symlink_to(text.decode())
    elif what == "chmod" and path.is_file() and not path.is_symlink():
        path.chmod(path.stat().st_mode ^ 0o100)


def listing(root):
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory",)
        else:
            found[name] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


steps = st.tuples(
    st.sampled_from(["write", "append", "append", "delete", "mkdir", "link", "chmod"]),
    st.sampled_from(PATHS),
    st.sampled_from([b"p", b"q", b"r"]),
)
jobs = st.lists(steps, min_size=0, max_size=4)


class Runs(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.top = Path(tempfile.mkdtemp())
        self.store = {}
        self.tidy = True
        self.edited = False
        self.worked = 0

    def teardown(self):
        shutil.rmtree(self.top)

    @initialize(
        program=st.lists(jobs, min_size=1, max_size=5),
        in_place=st.booleans(),
        budget=st.sampled_from([0, 100]),
    )
    def create(self, program, in_place, budget):
        self.program = program
        self.in_place = in_place
        # without a budget nothing can restore the sources of a run in place
        self.budget = 100 if in_place else budget
        self.workspace, self.origin = self.top / "workspace", self.top / "origin"
        for root in (self.workspace, self.origin):
            for name, content in SOURCES.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)

    @rule(position=st.integers(0, 9), job=jobs)
    def edit_job(self, position, job):
        self.program[position % len(self.program)] = job
        self.edited = True

    @rule(content=st.sampled_from([b"v1", b"v2", b"v3"]))
    def edit_script(self, content):
        """Jobs never write this file, and after a kill an edit in place would not be told from one."""
        self.edited = True
        if not self.in_place or self.tidy:
            (self.workspace if self.in_place else self.origin).joinpath("src/script").write_bytes(content)
            if self.in_place:
                (self.origin / "src/script").write_bytes(content)

    @rule(writes=st.integers(1, 60), after=st.booleans())
    def killed_run(self, writes, after):
        with Fault(writes, after=after) as fault, contextlib.suppress(Killed):
            self.drive(fault)
        self.tidy = self.tidy and not fault.dead

    @rule(position=st.integers(0, 4))
    def failing_run(self, position):
        with Fault() as fault:
            self.drive(fault, fail_at=position % len(self.program))
        self.tidy = True

    @rule()
    def whole_run(self):
        for _ in range(2):
            self.worked = 0
            with Fault() as fault:
                self.drive(fault)
            self.check()
        assert self.worked == 0  # the second time, everything was remembered
        self.tidy = True

    def check(self):
        reference = self.top / "reference"
        shutil.copytree(self.origin, reference)
        for job in self.program:
            for step in job:
                act(reference, step)
        expected, found = listing(reference), listing(self.workspace)
        shutil.rmtree(reference)
        assert found == expected

    def tracker(self):
        origins = None if self.in_place else {name: self.origin / name for name in SOURCES}
        digests = Digests(self.top / "memo")
        return WorkspaceTracker(self.workspace, self.top / "state", digests, origins, budget_mib=self.budget)

    def drive(self, fault, fail_at=None):
        """What an engine process does, with a dictionary for the store."""
        tracker = self.tracker()
        try:
            tracker.begin()
            try:
                self.walk_through(tracker, fault, fail_at)
            except StartOver:
                assert self.edited or not self.budget
                self.store.clear()
                tracker.reset()
                tracker.begin()
                self.walk_through(tracker, fault, fail_at)
        finally:
            tracker.close()

    def walk_through(self, tracker, fault, fail_at):
        key = ""
        for number, job in enumerate(self.program):
            identity = str(number)
            key = hashlib.sha256(f"{key}{job}{tracker.digest('src/script')}".encode()).hexdigest()
            known = self.store.get(identity)
            if known is not None and known[0] == key:
                why = tracker.verify(identity, known[1])
                if why is None:
                    tracker.hit(identity, *known[1:])
                    continue
                assert self.edited or not self.budget, why  # an accepted job is not repeated
            self.worked += 1
            tracker.settle(identity)
            for step in job:
                fault.job()
                with fault.elsewhere():
                    act(self.workspace, step)
            if number == fail_at:
                tracker.failed()
                return
            records, deleted = tracker.changes()
            fault.job()
            self.store[identity] = (key, records, deleted)
            fault.job()
            tracker.accept(identity, records, deleted)
        tracker.settle(None)


Runs.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestRuns(Runs.TestCase):
    pass


@pytest.mark.slow
class TestManyRuns(Runs.TestCase):
    settings = settings(
        max_examples=1500, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )
