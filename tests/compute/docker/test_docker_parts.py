"""What of the docker backend needs no engine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawbar.backend import JobStatus
from drawbar.errors import BackendError
from drawbar.images import Pull, full_name
from drawbar.model import JobResult, JobState, Mount, Reason, Resources
from drawbar.mounts import refusal, shadowed
from drawbar_docker import containers, images, records, results
from drawbar_docker.backend import DockerBackend
from drawbar_docker.engine import Engine, EngineError, Facts
from drawbar_docker.images import Image, ImageError, Images
from drawbar_docker.jobs import Job, Phase
from drawbar_docker.records import Stop
from drawbar_docker.timers import Timers

FACTS = Facts(name="host", cpus=4, memory_mib=1000)
ID = "sha256:" + 64 * "a"


def configured(attempt, facts=FACTS, entry_point=(), **options):
    options = {"network": None, "limit_cpus": False, **options}
    image = Image(id=ID, digest=ID, environment={}, entry_point=entry_point)
    return containers.configuration(attempt, image=image, facts=facts, **options)


def test_the_plugin_imports_the_docker_library_only_when_it_is_used():
    code = (
        "import sys, drawbar_docker.backend; sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_engine_that_is_not_there_is_a_finding_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("drawbar_docker.engine.Engine._connect", unreachable)
    backend = DockerBackend(DockerBackend.Options(host=f"unix://{tmp_path}/no.sock"))
    (problem,) = backend.check()
    assert "DOCKER_HOST" in problem.hint
    assert backend.capacity().cpus is None
    with pytest.raises(BackendError, match="DOCKER_HOST"):
        backend.start(None)
    backend.close()


def unreachable(self):
    raise BackendError("no container engine answers", transient=True)


@pytest.mark.parametrize(
    ("setting", "variable", "context", "found"),
    [
        ("unix:///s", "unix:///v", "box", "unix:///s"),
        (None, "unix:///v", "box", "unix:///v"),
        (None, None, "box", "unix:///c"),
    ],
)
def test_the_engine_is_the_first_that_is_named(tmp_path, monkeypatch, setting, variable, context, found):
    """By the settings, by DOCKER_HOST, by the docker context."""
    import docker

    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(context.encode()).hexdigest()
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": "unix:///c", "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": context, "Metadata": {}, "Endpoints": endpoints}))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": context}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    if variable:
        monkeypatch.setenv("DOCKER_HOST", variable)
    asked = []

    def client(**arguments):
        asked.append(arguments["base_url"])
        raise docker.errors.DockerException("nobody there")

    monkeypatch.setattr(docker, "APIClient", client)
    with pytest.raises(BackendError, match=f"no container engine answers at {found}"):
        Engine(setting).facts()
    assert asked == [found]


def test_podman_has_its_own_way_to_say_that_it_is_rootless():
    assert Facts.of({"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": True}).rootless
    assert not Facts.of({"SecurityOptions": [], "Rootless": False}).rootless


def test_the_facts_of_an_engine():
    info = {
        "Name": "box",
        "NCPU": 8,
        "MemTotal": 4 << 30,
        "SecurityOptions": ["name=seccomp,profile=default", "name=rootless", "name=userns", "name=selinux"],
        "Runtimes": {"runc": {}, "nvidia": {}},
    }
    assert Facts.of(info) == Facts(
        name="box", cpus=8, memory_mib=4096, rootless=True, remapped=True, labelled=True, gpus=True
    )


def _frame(text):
    return b"\2\0\0\0" + len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize(
    ("chunks", "printed"),
    [
        ([], ""),
        ([_frame(b"ERROR: ") + _frame(b"no")[:9], _frame(b"no")[9:] + _frame(b" file\n")], "ERROR: no file"),
        ([_frame(b"begun\n"), b'{"cause":"no such container"}\n'], "begun"),
        ([_frame(b"x" * 3000)] * 1000, "x" * (4096 - 2 * 8)),
    ],
)
def test_what_a_container_printed(monkeypatch, chunks, printed):
    answer = SimpleNamespace(iter_content=lambda chunk_size: iter(chunks), close=lambda: None)
    monkeypatch.setattr(Engine, "_call", lambda *_, **__: answer)
    assert Engine("unix:///absent").log("c") == printed


def test_what_an_engine_is_asked_for(make_attempt):
    attempt = make_attempt(
        "echo",
        "$HOME",
        environment={"A": "b c"},
        network=False,
        resources=Resources(cpus=2, memory_limit_mib=64, gpus=1),
    )
    body = configured(attempt, limit_cpus=True)
    host = body["HostConfig"]
    assert body["Cmd"] == ["echo", "$HOME"]
    assert body["Entrypoint"][0] == "/bin/sh"
    assert {"A=b c", "HOME=/tmp"} <= set(body["Env"])
    assert body["Labels"]["drawbar.tag"] == attempt.tag
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 2 * 10**9)
    assert host["NetworkMode"] == "none"
    assert host["DeviceRequests"] == [{"Count": 1, "Capabilities": [["gpu"]]}]
    assert {mount["Target"] for mount in host["Mounts"]} == {attempt.workspace, attempt.record}


def test_users_are_the_same_inside_and_outside(make_attempt):
    attempt = make_attempt()
    assert configured(attempt)["User"].count(":") == 1
    assert configured(attempt, Facts(name="h", cpus=1, memory_mib=1, rootless=True))["User"] == "0:0"
    remapped = configured(attempt, Facts(name="h", cpus=1, memory_mib=1, remapped=True, labelled=True))
    assert remapped["HostConfig"]["UsernsMode"] == "host"
    assert remapped["HostConfig"]["SecurityOpt"] == ["label=disable"]


@pytest.mark.parametrize(
    "path", ["/", "/usr", "/usr/bin/x", "/etc/x", "/opt", "/home", "/proc/1", "/usr/local"]
)
def test_a_workspace_does_not_hide_what_images_have(path):
    assert "--workspace" in shadowed(path)


@pytest.mark.parametrize("path", ["/home/user/work", "/opt/work", "/tmp/x", "/usr/local/work", "/data"])
def test_a_workspace_may_be_anywhere_else(path):
    assert shadowed(path) is None


@pytest.mark.parametrize("target", ["/", "/proc/x", "/sys", "/dev/shm/../x"])
def test_the_containers_own_places_are_not_mounted_over(make_attempt, tmp_path, target):
    attempt = make_attempt(mounts=(Mount(source=str(tmp_path), target=target),))
    assert "belongs to the container" in refusal(attempt, ())


def test_another_run_is_outside(make_attempt, tmp_path):
    """Runs lie beside each other, and an attempt two levels below its run."""
    own, other = tmp_path / "jobs" / "x", tmp_path.parent / "other.1"
    workspace = tmp_path / "workspace"
    for place, word in ((own, None), (other, "outside of the run")):
        mounts = (Mount(source=str(place), target="/inputs", read_only=True),)
        why = refusal(make_attempt(workspace=workspace, mounts=mounts), ())
        assert why is None if word is None else word in why


def test_streams_are_files_that_the_container_sees(make_attempt, tmp_path):
    assert refusal(make_attempt(stdin=f"{tmp_path}/in"), ()) is None
    assert "/elsewhere/in" in refusal(make_attempt(stdin="/elsewhere/in"), ())


def test_what_cannot_run_is_refused_before_anything_runs(make_attempt, monkeypatch):
    backend = DockerBackend(DockerBackend.Options())
    monkeypatch.setattr(Engine, "facts", lambda self: FACTS)
    spec = make_attempt().spec
    assert backend.refuses(spec) is None
    for changes, word in (
        ({"image": None}, "no image"),
        ({"image": "/cvmfs/unpacked/x"}, "no image of a registry"),
        ({"resources": Resources(cpus=5)}, "4"),
        ({"resources": Resources(memory_mib=2000)}, "1000"),
        ({"resources": Resources(gpus=1)}, "GPU"),
    ):
        assert word in backend.refuses(make_attempt(**changes).spec)
    backend.close()


def container(code=0, **state):
    state = {
        "ExitCode": code,
        "StartedAt": "2026-01-01T00:00:00.5Z",
        "FinishedAt": "2026-01-01T00:01:00Z",
        **state,
    }
    return {"Id": 64 * "b", "State": state}


END = results.when("2026-01-01T00:01:00Z")


@pytest.mark.parametrize(
    ("found", "options", "reason"),
    [
        (container(), {}, None),
        (container(3), {}, Reason.EXIT_CODE),
        (container(137), {}, Reason.KILLED),
        (container(137, OOMKilled=True), {}, Reason.OUT_OF_MEMORY),
        (container(0, OOMKilled=True), {}, None),
        (container(137), {"stop": Stop(reason=Reason.TIMEOUT, time=END - 1)}, Reason.TIMEOUT),
        (container(0), {"stop": Stop(reason=Reason.CANCELLED, time=END - 1)}, Reason.CANCELLED),
        (container(4), {"stop": Stop(reason=Reason.CANCELLED, time=END + 1)}, Reason.EXIT_CODE),
        (container(143), {"outage": (END - 1, END + 1)}, Reason.NODE_LOST),
        (container(143), {"outage": (END + 1, END + 2)}, Reason.EXIT_CODE),
        (container(3), {"outage": (END - 1, END + 1)}, Reason.EXIT_CODE),
        (container(127), {"log": "[FATAL tini (7)] exec /bin/sh failed: No such file"}, Reason.IMAGE),
    ],
)
def test_ends_are_told_apart(make_attempt, found, options, reason):
    options = {"stop": None, "host": "h", **options}
    result = results.ended(make_attempt(), found, **options)
    assert result.reason is reason
    assert result.exit_code == found["State"]["ExitCode"]
    assert result.finished - result.started == 59.5


def test_a_record_is_taken_once_and_its_result_never_changes(make_attempt):
    record = make_attempt().record
    assert records.claim(record)
    assert not records.claim(record)
    first = JobResult(exit_code=0)
    assert records.set_result(record, first) == first
    assert records.set_result(record, JobResult(exit_code=1, reason=Reason.EXIT_CODE)) == first
    assert records.get_result(record) == first


def test_a_damaged_record_is_as_good_as_none(make_attempt, tmp_path):
    record = make_attempt().record
    records.claim(record)
    (tmp_path / "attempts" / "job.1-1" / "result.json").write_text('{"exit_code": "')
    assert records.get_result(record) is None
    assert records.stop(record) is None


def test_a_job_that_has_begun_cannot_be_kept_from_it(make_attempt):
    record = make_attempt().record
    records.claim(record)
    assert records.close_start(record)
    assert records.close_start(record)
    other = f"{record}-2"
    records.claim(other)
    Path(records.start_of(other)).touch()
    assert not records.close_start(other)


class Registry:
    """Stands in for an engine as far as images go."""

    def __init__(self, *present, reports=(), failures=()):
        self.present = set(map(full_name, present))
        self.reports, self.failures = reports, list(failures)
        self.pulls = []
        self.gate = threading.Event()
        self.gate.set()

    def image(self, reference):
        if reference in self.present:
            return {"Id": ID, "RepoDigests": [f"x@sha256:{64 * 'c'}"], "Config": {"Env": ["A=b=c"]}}
        return None

    def pull(self, repository, tag):
        self.gate.wait(30)
        self.pulls.append((repository, tag))
        yield from self.reports
        if self.failures:
            yield {"error": self.failures.pop(0)}
            return
        self.present.add(f"{repository}:{tag}")


@pytest.fixture
def images_of():
    opened = []

    def make(registry, policy=Pull.MISSING):
        opened.append(Images(registry, policy))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_an_image_is_fetched_once_for_all_who_wait(images_of):
    registry, heard = Registry(reports=[{"id": "l", "status": "Downloading", "progressDetail": {}}]), []
    registry.gate.clear()
    found = images_of(registry)
    futures = [found.ensure("a/b:1", heard.append) for _ in range(5)]
    registry.gate.set()
    assert {future.result(30).id for future in futures} == {ID}
    assert registry.pulls == [("docker.io/a/b", "1")]
    assert heard[0] == "fetching the image a/b:1"


def test_an_image_that_is_here_is_not_fetched_unless_always(images_of):
    assert images_of(Registry("a:1")).ensure("a:1").result(30).environment == {"A": "b=c"}
    registry = Registry("a:1")
    images_of(registry, Pull.ALWAYS).ensure("a:1").result(30)
    assert registry.pulls == [("docker.io/library/a", "1")]


def test_an_image_that_may_not_be_fetched(images_of):
    registry = Registry()
    with pytest.raises(ImageError, match="forbid"):
        images_of(registry, Pull.NEVER).ensure("a:1").result(30)
    assert registry.pulls == []


def test_what_cannot_succeed_is_not_tried_again_and_a_failure_is_not_remembered(images_of):
    registry = Registry(failures=["manifest for a:1 not found"])
    found = images_of(registry)
    with pytest.raises(ImageError, match="docker login"):
        found.ensure("a:1").result(30)
    assert len(registry.pulls) == 1
    assert found.ensure("a:1").result(30).id == ID


def test_a_network_that_fails_is_tried_again(images_of, monkeypatch):
    monkeypatch.setattr(images.time, "sleep", lambda seconds: None)
    registry = Registry(failures=["net/http: TLS handshake timeout"] * 2)
    assert images_of(registry).ensure("a:1").result(30).id == ID
    assert len(registry.pulls) == 3


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("busybox", ("docker.io/library/busybox", "latest")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a/b:2", ("host:5000/a/b", "2")),
        (f"a/b:2@{ID}", ("docker.io/a/b", ID)),
        ("docker://a/b:3", ("docker.io/a/b", "3")),
    ],
)
def test_names_of_images(images_of, name, parts):
    registry = Registry()
    registry.pull = lambda *given: registry.pulls.append(given) or iter(())
    with pytest.raises(ImageError):
        images_of(registry).ensure(name).result(30)
    assert registry.pulls == [parts]


@pytest.mark.parametrize("name", ["library://x", "/cvmfs/x", "a b", "x.sif?y", "../etc", "-v"])
def test_what_is_no_image_is_never_asked_for(images_of, name):
    registry = Registry()
    with pytest.raises(ImageError, match=r"images\.aliases"):
        images_of(registry).ensure(name).result(30)
    assert registry.pulls == []


def test_timers_call_in_order_and_nothing_after_they_are_closed():
    timers, calls, done = Timers("test"), [], threading.Event()
    timers.after(3600, lambda: calls.append("late"))
    timers.after(0.02, lambda: (calls.append(2), done.set()))
    timers.after(0, lambda: calls.append(1))
    assert done.wait(30)
    timers.close()
    assert calls == [1, 2]


def test_a_result_survives_its_record(make_attempt, tmp_path):
    attempt = make_attempt()
    records.claim(attempt.record)
    result = results.failed(attempt, Reason.LOST, "gone", "c" * 64)
    assert records.set_result(attempt.record, result) == result
    document = json.loads((tmp_path / "attempts" / "job.1-1" / "result.json").read_text())
    assert document["reason"] == "lost"
    assert isinstance(results.status(attempt, result), JobStatus)
    assert results.status(attempt, result).state is JobState.FAILED


class Forgetful:
    """Stands in for an engine that has forgotten the container of a job, or does not have it any more."""

    def __init__(self, state, looks):
        self.state, self.looks = state, list(looks)
        self.listed = threading.Barrier(1)
        self.lookers = []

    def facts(self):
        return FACTS

    def containers(self, *labels):
        found = [{"Id": ID, "State": self.state, "Labels": {containers.TAG: self.tag}}] if self.state else []
        self.listed.wait(30)
        return found

    def inspect(self, container):
        if self.state is None:
            raise EngineError(404, "no such container")
        return {"Id": ID, "State": {"Status": self.state}}

    def image(self, reference):
        return {"Id": ID, "Config": {}}

    def create(self, name, body):
        self.lookers.append(body["Entrypoint"][-1])
        return name

    def start(self, container):
        pass

    def wait(self, container):
        return self.looks.pop(0)

    def remove(self, container):
        pass

    def close(self):
        pass


class Sink:
    """What a backend has told."""

    def __init__(self):
        self.told, self.troubles = [], []
        self.ended = threading.Event()

    def status(self, statuses):
        self.told += statuses
        if any(each.state.terminal for each in statuses):
            self.ended.set()

    def trouble(self, message):
        self.troubles.append(message)


@pytest.fixture
def stalled(make_attempt):
    """A backend, not watching, whose one job has begun while its start was not answered."""
    opened = []

    def make(state, *looks, phase=Phase.STALLED):
        engine, sink, attempt = Forgetful(state, looks), Sink(), make_attempt()
        engine.tag = attempt.tag
        backend = DockerBackend(DockerBackend.Options())
        backend._engine = backend._images._engine = engine
        backend._events, backend._timers = sink, Timers("test")
        records.claim(attempt.record)
        records.set_container(attempt.record, ID)
        Path(records.start_of(attempt.record)).touch()
        job = Job(attempt, phase, ID)
        backend._jobs[attempt.tag] = job
        opened.append(backend)
        return backend, engine, sink, job

    yield make
    for each in opened:
        each.close()
        each._timers.close()


@pytest.mark.parametrize("phase", [Phase.STALLED, Phase.RUNNING])
def test_two_looks_at_a_forgotten_job_at_once_bury_it_once(stalled, phase):
    backend, engine, sink, _ = stalled("created", 0, phase=phase)
    engine.listed = threading.Barrier(2)  # both have seen the phase before either of them goes on
    looks = [threading.Thread(target=backend._reconcile) for _ in range(2)]
    for each in looks:
        each.start()
    for each in looks:
        each.join(30)
    assert sink.ended.wait(30)
    backend.close()
    assert engine.lookers == [ID]
    assert [each.result.reason for each in sink.told] == [Reason.LOST]
    assert not any(sink.troubles)


@pytest.mark.parametrize("learnt", ["from an event", "by a look", "by a new driver"])
@pytest.mark.parametrize(("looks", "reason"), [((10, 0), Reason.LOST), ((20,), Reason.HELD)])
def test_a_job_whose_container_is_gone_is_lost_only_when_it_is_dead(stalled, learnt, looks, reason):
    """An engine ends a container that it removes, but not one that it has forgotten to have started."""
    backend, engine, sink, job = stalled(None, *looks)
    if learnt == "from an event":
        backend._harvest(job.tag)
    elif learnt == "by a look":
        backend._reconcile()
    else:
        backend._jobs.clear()
        assert not backend.find([job.attempt])[job.tag].state.terminal
    assert sink.ended.wait(30)
    assert engine.lookers == [ID] * len(looks)
    (told,) = sink.told
    assert told.result.reason is reason
    assert ("/proc/PID/cgroup" if reason is Reason.HELD else "removed by somebody") in told.message


@pytest.mark.parametrize("state", [None, "created"])
@pytest.mark.parametrize("looks", [(10, 0), (20,)])
def test_a_job_that_has_not_begun_cannot_begin_any_more(stalled, state, looks):
    """What waits to become it is ended, too, but is no reason to keep it from being repeated."""
    backend, engine, sink, job = stalled(state, *looks)
    Path(records.start_of(job.attempt.record)).unlink()
    backend._reconcile()
    assert sink.ended.wait(30)
    assert sink.told[0].result.reason is Reason.LOST
    assert engine.lookers == [ID] * len(looks)
    assert Path(records.start_of(job.attempt.record)).exists()


def test_an_engine_that_falls_silent_while_a_job_is_adopted_is_asked_again(stalled, monkeypatch):
    backend, engine, sink, job = stalled("created", 0)
    with monkeypatch.context() as silent:
        silent.setattr(engine, "inspect", lambda _: unreachable(None))
        backend._reconcile()
        assert job.phase is Phase.STALLED
        assert sink.troubles == ["", "no container engine answers"]
    backend._reconcile()
    assert sink.troubles[-1] == ""
    assert sink.ended.wait(30)
    assert sink.told[-1].result.reason is Reason.LOST
