"""The contract, and what is so on any cluster, on the fake one; and what only that can show."""

from __future__ import annotations

import itertools
import os
import queue
import ssl
import subprocess
import threading
from collections import Counter
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from behaviour import Behaviour, ledger_of, pod_of, running
from drawbar.model import INFRASTRUCTURE, JobState, Reason, Resources
from drawbar.testing import BackendContract
from drawbar.testing.driver import Driver
from drawbar.threads import watched
from drawbar_kubernetes import manifest, records
from drawbar_kubernetes.api import Api
from drawbar_kubernetes.backend import KubernetesBackend
from fake_cluster import FakeCluster
from kubernetes.config import incluster_config

IMAGE = "localhost/busybox:wf"
# How many jobs show that calls and threads do not grow with them.
SCALE = int(os.environ.get("KUBERNETES_SCALE", "200"))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    with FakeCluster(tmp_path) as fake:
        yield fake


@pytest.fixture
def make_backend(cluster, tmp_path):
    def make(**options):
        volume = {"path": str(tmp_path), "host_path": str(tmp_path)}
        values = {
            "kubeconfig": str(cluster.kubeconfig),
            "volumes": [volume],
            "grace_s": 0.5,
            "check_image": IMAGE,
            **options,
        }
        return KubernetesBackend(KubernetesBackend.Options.parse(values, where="test"))

    return make


@pytest.fixture
def open_driver(make_backend, tmp_path):
    drivers = []

    def open_one(*, image=IMAGE, **options):
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(lambda: make_backend(**options), workspace.resolve(), patience_s=60, image=image)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


class TestFakeCluster(BackendContract):
    image = IMAGE
    many = 40
    test_the_memory_limit_is_enforced = None  # its node limits nothing

    @pytest.fixture
    def backend(self, make_backend):
        return make_backend


class TestBehaviour(Behaviour):
    pass


def test_watches_that_break_off_lose_nothing(open_driver, cluster):
    driver = open_driver()
    attempts = running(driver, 3)
    cluster.cut_watches()
    (driver.directory / "gate").touch()
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert [watcher.lists for watcher in driver.backend._follower.watchers] == [1, 1]


def test_a_watch_that_has_expired_is_a_list(open_driver, cluster):
    """What ended meanwhile is found in it."""
    driver = open_driver()
    attempts = running(driver, 3)
    cluster.unserve()
    (driver.directory / "gate").touch()
    driver.wait_for(
        lambda: all(pod["status"]["phase"] == "Succeeded" for pod in cluster.objects("pods")), "jobs end"
    )
    cluster.expire()
    cluster.serve()
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert max(watcher.lists for watcher in driver.backend._follower.watchers) > 1


def test_a_server_that_is_gone_fails_nothing(open_driver, cluster):
    """Jobs that run go on, new ones wait, and trouble is told and taken back."""
    driver = open_driver()
    (old,) = running(driver)
    cluster.unserve()
    driver.wait_for(lambda: any(driver.watch.troubles), "trouble is told")
    new = driver.shell("exit 4")
    driver.run(new)
    (driver.directory / "gate").touch()
    cluster.serve()
    assert driver.end(old).ok
    assert driver.end(new).exit_code == 4
    driver.wait_for(lambda: driver.watch.troubles[-1] == "", "trouble is taken back")


def test_creations_without_an_answer_are_one_job(open_driver, cluster):
    driver = open_driver()
    cluster.deaf = 2
    attempts = running(driver, 4)
    (driver.directory / "gate").touch()
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert len(ledger_of(driver)) == 4


def test_a_busy_server_is_obeyed(open_driver, cluster):
    driver = open_driver()
    cluster.busy = 3
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    assert driver.end(attempt).ok


@pytest.mark.parametrize(("status", "word"), [(401, "renew"), (403, "kubernetes-role.yaml")])
def test_a_server_that_starts_knows_nobody_yet(open_driver, cluster, status, word):
    """While it reads accounts and roles it refuses what it will allow."""
    driver = open_driver()
    cluster.refusing = status
    attempt = driver.shell("exit 4")
    driver.run(attempt)
    driver.wait_for(
        lambda: any(word in each.message for each in driver.watch.of(attempt)), "it is told while it waits"
    )
    cluster.refusing = 0
    assert driver.end(attempt).exit_code == 4


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("POST", "/namespaces/wf/jobs", "kubeconfig")),
        (403, ("create", "jobs", "namespace", "kubernetes-role.yaml")),
    ],
)
def test_a_right_that_is_missing_for_good_ends_the_job(open_driver, cluster, monkeypatch, status, words):
    monkeypatch.setattr("drawbar_kubernetes.launch.STARTING_S", 0.5)
    driver = open_driver()
    cluster.refusing = status
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.REJECTED
    assert all(word in result.message for word in words)


@pytest.mark.parametrize("right", ["list jobs", "watch pods"])
def test_a_right_to_see_that_is_missing_for_good_ends_the_drive(open_driver, cluster, monkeypatch, right):
    """Nobody would learn of ends; the reason names verb, resource and remedy, and jobs go on."""
    monkeypatch.setattr("drawbar_kubernetes.watch.STARTING_S", 0.5)
    cluster.forbidden = {right}
    said: queue.Queue[str] = queue.Queue()
    with watched(said.put):
        driver = open_driver()
        message = said.get(timeout=60)
        driver.close()
    verb, resource = right.split()
    assert f'cannot {verb} resource "{resource}"' in message
    assert "kubernetes-role.yaml" in message


def test_a_right_to_see_that_comes_in_time_is_enough(open_driver, cluster):
    """As when a server that starts has not read its roles yet."""
    cluster.forbidden = {"list jobs", "watch pods"}
    driver = open_driver()
    driver.wait_for(lambda: any("cannot" in each for each in driver.watch.troubles), "trouble is told")
    cluster.forbidden = set()
    attempt = driver.shell("exit 4")
    driver.run(attempt)
    assert driver.end(attempt).exit_code == 4


def test_an_end_is_known_before_the_node_tells_of_it(open_driver, cluster):
    """By the job's own record; its Job, with a pod that runs to all appearance, is deleted when told to."""
    cluster.telling.clear()
    driver = open_driver()
    attempts = running(driver, 3, exit_code=7)
    calls = len(cluster.calls)
    (driver.directory / "gate").touch()
    results = [driver.end(attempt) for attempt in attempts]
    assert [(each.exit_code, each.host) for each in results] == [(7, "fake-node")] * 3
    assert {each["status"]["phase"] for each in cluster.objects("pods")} == {"Running"}
    assert {verb for verb, _ in cluster.calls[calls:]} <= {"WATCH"}
    assert cluster.count("jobs") == 3
    driver.call(driver.backend.forget, attempts)
    driver.wait_for(lambda: not cluster.count("jobs"), "their Jobs are deleted")
    cluster.telling.set()
    driver.wait_for(lambda: not cluster.count("pods"), "their pods end")
    assert all(len([told for told in driver.watch.of(each) if told.result]) == 1 for each in attempts)
    assert len(ledger_of(driver)) == 3


def test_a_kill_of_unknown_cause_waits_for_the_nodes_word(open_driver, cluster):
    """The script may be unable to read that it was the memory limit."""
    cluster.telling.clear()
    driver = open_driver()
    attempt = driver.shell("kill -9 $$")
    driver.run(attempt)
    driver.wait_for(lambda: records.end(attempt.record), "its end is recorded")
    assert driver.backend.find([attempt])[attempt.tag].result is None
    cluster.telling.set()
    result = driver.end(attempt)
    assert (result.reason, result.exit_code) == (Reason.KILLED, 137)


@pytest.mark.slow  # a record that is not visible yet is waited for
def test_a_record_that_is_visible_late_is_waited_for(open_driver, cluster, monkeypatch):
    """As on a network file system: the pod's end is known first, and the record counts all the same."""
    monkeypatch.setattr("drawbar_kubernetes.follow._SETTLE_S", 60.0)
    seen, hidden = records._read, threading.Event()
    hidden.set()
    monkeypatch.setattr(
        records,
        "_read",
        lambda record, name: None if name == "end" and hidden.is_set() else seen(record, name),
    )
    driver = open_driver()
    attempt = driver.shell("sleep 30", resources=Resources(walltime_s=1))
    driver.run(attempt)
    driver.wait_for(
        lambda: [each["status"]["phase"] for each in cluster.objects("pods")] == ["Failed"], "its pod ends"
    )
    assert driver.backend.find([attempt])[attempt.tag].result is None
    hidden.clear()
    assert driver.end(attempt).reason is Reason.TIMEOUT


def test_a_record_that_a_file_system_remembers_as_missing_is_asked_for_anew(
    open_driver, cluster, monkeypatch
):
    """As on NFS, whose client believes that for half a minute, unless it changes something there itself."""
    monkeypatch.setattr("drawbar_kubernetes.follow._SETTLE_S", 0.0)
    missing = set()
    read, write = records._read, records._write

    def remembering(record, name):
        found = None if (record, name) in missing else read(record, name)
        if name == "end" and found is None:
            missing.add((record, name))
        return found

    def changing(record, *arguments):
        missing.discard((record, "end"))
        write(record, *arguments)

    monkeypatch.setattr(records, "_read", remembering)
    monkeypatch.setattr(records, "_write", changing)
    driver = open_driver()
    attempt = driver.shell("sleep 30", resources=Resources(walltime_s=1))
    driver.run(attempt)
    assert driver.end(attempt).reason is Reason.TIMEOUT


def test_a_job_of_that_name_that_is_somebody_elses_is_an_error(open_driver, cluster):
    """It is neither taken for ours, nor touched."""
    driver = open_driver()
    attempt = driver.shell("exit 0")
    foreign = {
        "metadata": {"name": manifest.name_of([attempt.tag]), "labels": {"app": "other"}},
        "spec": {"suspend": True},
    }
    cluster.create(foreign, "wf")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.REJECTED
    assert "not of this run" in result.message
    driver.call(driver.backend.forget, [attempt])
    driver.close()
    assert [each["metadata"]["labels"] for each in cluster.objects("jobs")] == [{"app": "other"}]


def test_a_job_that_is_deleted_as_soon_as_it_was_made_is_repeated(open_driver, cluster, monkeypatch):
    """Its creation is not answered, and when it is made again somebody deletes it before it is looked at.

    By then a watch may have told of the deletion, which loses the attempt; else its Job is made again.
    """
    cluster.deaf, cluster.pods_wanted, seen = 1, False, []
    look = Api.get

    def get(api, kind, name):
        if not seen:
            seen.append(name)
            cluster.delete_job(name)
            cluster.pods_wanted = True
        return look(api, kind, name)

    monkeypatch.setattr(Api, "get", get)
    driver = open_driver()
    (driver.directory / "gate").touch()
    attempt = driver.gated(driver.directory / "gate")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason in (None, Reason.LOST)
    assert seen == [manifest.name_of([attempt.tag])]
    assert len(ledger_of(driver)) == result.ok


def test_a_quota_that_is_used_up_is_waited_for(open_driver, cluster):
    driver = open_driver()
    cluster.quota = 1
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    assert driver.end(attempt).ok
    assert any("exceeded quota" in status.message for status in driver.watch.of(attempt))


def test_a_job_that_fits_nowhere_says_why_it_waits(open_driver, cluster):
    driver = open_driver()
    cluster.schedulable = False
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("Insufficient memory" in each.message for each in driver.watch.of(attempt)),
        "the scheduler's message is told",
    )
    cluster.schedulable = True
    cluster.wake()
    assert driver.end(attempt).ok


def test_an_image_that_comes_late_is_enough(open_driver, cluster):
    driver = open_driver(image="localhost/late:1")
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("ImagePullBackOff" in each.message for each in driver.watch.of(attempt)), "it is told"
    )
    cluster.images.add("localhost/late:1")
    cluster.wake()
    assert driver.end(attempt).ok


@pytest.mark.slow  # a pod is waited for
def test_jobs_without_a_pod_say_so(open_driver, cluster):
    """In one call for all of them, which keeps nobody from learning of ends."""
    driver = open_driver()
    cluster.pods_wanted = False
    attempts = [driver.shell("exit 0") for _ in range(30)]
    driver.run(*attempts)
    driver.wait_for(
        lambda: all(any("no pod" in told.message for told in driver.watch.of(each)) for each in attempts),
        "it is told that they have none",
    )
    assert sum(path.endswith("/events") for _, path in cluster.calls) < 5
    driver.cancel(*attempts)
    assert {driver.end(attempt).reason for attempt in attempts} == {Reason.CANCELLED}


def test_a_configuration_that_cannot_be_had(open_driver, cluster):
    """It waits for a while, as somebody may make the secret, and says so; then it is the site's fault."""
    cluster.unfit = True
    driver = open_driver(image_wait_s=1.0)
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.REJECTED
    assert 'secret "password" not found' in result.message
    states = {each.native_state for each in driver.watch.of(attempt) if each.state is JobState.SUBMITTED}
    assert "CreateContainerConfigError" in states
    assert ledger_of(driver) == []


def test_a_container_that_cannot_be_created_is_not_tried_for_ever(open_driver, cluster):
    """A node that tries again tells of other states in between, which begin no new wait."""
    cluster.unfit = True
    driver = open_driver(image_wait_s=2.0)
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("password" in each.message for each in driver.watch.of(attempt)), "it is told"
    )
    pod = pod_of(cluster, attempt)
    words = itertools.cycle(["ContainerCreating", "CreateContainerError"])

    def ended():
        if cluster.find("pods", pod):
            cluster.show(pod, next(words))
        return any(told.result for told in driver.watch.of(attempt))

    driver.wait_for(ended, "it ends")
    result = driver.end(attempt)
    assert result.reason is Reason.REJECTED
    assert "CreateContainerError: context deadline exceeded" in result.message
    assert ledger_of(driver) == []


def test_a_configuration_that_comes_late_is_enough(open_driver, cluster):
    cluster.unfit = True
    driver = open_driver()
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("password" in each.message for each in driver.watch.of(attempt)), "it is told"
    )
    cluster.unfit = False
    cluster.wake()
    assert driver.end(attempt).ok


def test_a_node_that_does_not_answer(open_driver, cluster):
    driver = open_driver(node_wait_s=1.0)
    (attempt,) = running(driver)
    cluster.lose_node(pod_of(cluster, attempt))
    assert driver.end(attempt).reason is Reason.NODE_LOST


def test_a_node_that_does_not_answer_takes_only_its_own_part(open_driver, cluster):
    """What began in its pod is lost, with what could begin only there; other pods of the Job go on."""
    driver = open_driver(node_wait_s=1.0, pack=2)
    gate = driver.directory / "gate"
    attempts = [driver.shell(NUMBERED, str(gate), str(number)) for number in range(6)]
    driver.run(*attempts)
    driver.wait_for(lambda: len(ledger_of(driver)) == 3, "the first of each part starts")
    (job,) = cluster.objects("jobs")
    assert job["spec"]["completions"] == 3
    (pod,) = [
        each["metadata"]["name"]
        for each in cluster.objects("pods")
        if each["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "1"
    ]
    cluster.lose_node(pod)
    assert [driver.end(attempt).reason for attempt in attempts[2:4]] == [Reason.NODE_LOST] * 2
    gate.touch()
    assert all(driver.end(attempts[number]).ok for number in (0, 1, 4, 5))
    assert sorted(ledger_of(driver)) == ["0", "1", "2", "4", "5"]


def test_kueue_holds_a_job_back(open_driver, cluster):
    """A suspended Job waits, and is not failed."""
    cluster.queued = True
    driver = open_driver(queue="physics")
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("suspended" in each.message for each in driver.watch.of(attempt)),
        "it is told that it waits",
    )
    assert {status.state for status in driver.watch.of(attempt)} == {JobState.SUBMITTED}
    cluster.admit()
    assert driver.end(attempt).ok


def test_what_was_taken_and_not_made_is_made_by_the_next_driver(open_driver, cluster):
    driver = open_driver()
    cluster.unserve()
    attempts = [driver.gated(driver.directory / "gate", code) for code in (1, 2)]
    driver.run(*attempts)
    driver.close()
    cluster.serve()
    driver.open()
    assert set(driver.find(*attempts)) == {attempt.tag for attempt in attempts}
    (driver.directory / "gate").touch()
    assert [driver.end(attempt).exit_code for attempt in attempts] == [1, 2]
    assert len(ledger_of(driver)) == 2


def test_a_check_names_what_is_not_allowed(make_backend, cluster):
    cluster.forbidden = {"create jobs", "watch pods"}
    (problem,) = make_backend().check()
    assert "create jobs, watch pods" in str(problem)
    assert "kubernetes-role.yaml" in str(problem)


def test_a_check_finds_an_image_that_cannot_be_had(make_backend, cluster):
    (problem,) = make_backend(check_image="localhost/none:1", check_s=1.0).check()
    assert "ImagePullBackOff" in str(problem)
    assert cluster.objects("jobs") == []


@pytest.mark.slow  # a record that is not there is waited for
def test_a_check_finds_a_volume_that_pods_cannot_use(make_backend, cluster, tmp_path):
    """The pod sees another file system at that place, in which it cannot write."""
    cluster.moved = (f"{tmp_path}/.drawbar-check", f"{tmp_path}/elsewhere")
    (problem,) = make_backend(check_s=20.0).check()
    assert "cannot write in" in str(problem)
    assert "same file system" in str(problem)
    assert f"user {os.getuid()} of group {os.getgid()} has to be able to write there" in str(problem)


def test_a_check_of_a_cluster_without_volumes(make_backend, cluster):
    (problem,) = make_backend(volumes=[]).check()
    assert "volumes" in str(problem)


def test_a_check_of_a_home_that_is_not_shared(make_backend, cluster, monkeypatch):
    monkeypatch.setenv("DRAWBAR_HOME", "/elsewhere")
    (problem,) = make_backend().check()
    assert "/elsewhere" in str(problem)


def test_a_check_tells_of_a_quota_that_is_used_up(make_backend, cluster):
    status = {"hard": {"pods": "2", "requests.cpu": "4"}, "used": {"pods": "2", "requests.cpu": "500m"}}
    cluster.add_quota({"metadata": {"name": "small"}, "status": status})
    (problem,) = make_backend().check()
    assert "small allows no more pods (2 of 2 are used)" in str(problem)


def test_a_check_tells_of_a_quota_that_is_too_small_for_a_job(make_backend, cluster):
    """By the Job that is not made, as with a quota of Jobs."""
    cluster.quota = 1000
    (problem,) = make_backend(check_s=1.0).check()
    assert "exceeded quota" in str(problem)
    assert "raise it" in str(problem)
    assert "memory_request" in str(problem)


@pytest.mark.slow  # a pod is waited for
def test_a_check_tells_of_a_quota_that_is_too_small_for_a_pod(make_backend, cluster):
    """By the event of a Job that gets no pod, as with a quota of memory."""
    cluster.pods_wanted = False
    made = cluster.create

    def create(job, namespace):
        cluster.warn(job["metadata"]["name"], "exceeded quota: small, requested: requests.memory=1Gi")
        return made(job, namespace)

    cluster.create = create
    (problem,) = make_backend(check_s=8.0).check()
    assert "exceeded quota: small, requested: requests.memory=1Gi" in str(problem)
    assert "raise it" in str(problem)


def test_a_check_names_what_an_old_cluster_leaves_out(make_backend, cluster):
    cluster.left_out = ("ttlSecondsAfterFinished",)
    (problem,) = make_backend().check()
    assert "spec.ttlSecondsAfterFinished" in str(problem)


@pytest.mark.parametrize("content", [None, "", "{}", "contexts: 5"])
def test_a_check_without_a_cluster(tmp_path, content):
    """It names the file, what is wrong with it and what to do."""
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    values = {"kubeconfig": str(file)}
    (problem,) = KubernetesBackend(KubernetesBackend.Options.parse(values, where="test")).check()
    assert f"no cluster can be reached by {file}: " in str(problem)
    assert "name a kubeconfig with KUBECONFIG" in str(problem)
    assert ".;" not in str(problem)


def test_a_check_of_a_cluster_that_does_not_answer(make_backend, cluster):
    cluster.unserve()
    (problem,) = make_backend().check()
    assert "does not answer" in str(problem)
    assert "kubectl" in str(problem)


def test_calls_and_threads_do_not_grow_with_jobs(make_backend, cluster, tmp_path):
    """Calls, memory and threads do not grow with each job."""
    cluster.instant = True
    workspace = tmp_path / "w"
    workspace.mkdir()
    driver = Driver(lambda: make_backend(creations_per_s=1e6), workspace, patience_s=120, image=IMAGE).open()
    attempts = [driver.attempt("true") for _ in range(SCALE)]
    before = threading.active_count()
    for start in range(0, SCALE, 500):
        driver.run(*attempts[start : start + 500])
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert threading.active_count() <= before + 64
    driver.call(driver.backend.forget, attempts)
    driver.wait_for(lambda: not cluster.count("jobs"), "Jobs are deleted")
    driver.close()
    verbs = Counter(verb for verb, _ in cluster.calls)
    assert verbs["POST"] == SCALE
    assert verbs["DELETE"] <= SCALE / 100 + 20
    assert verbs["GET"] + verbs["WATCH"] < 50


def test_a_scatter_in_packs_is_one_indexed_job(open_driver, cluster):
    driver = open_driver(pack=4)
    order = driver.directory / "order"
    attempts = [driver.shell(f'echo {n} >> "$1"; exit {n}', str(order)) for n in range(10)]
    driver.run(*attempts)
    assert [driver.end(attempt).exit_code for attempt in attempts] == list(range(10))
    assert sorted(map(int, order.read_text().split())) == list(range(10))
    (job,) = cluster.objects("jobs")
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 3)
    assert len(cluster.objects("pods")) == 3


def test_an_old_cluster_has_a_job_for_each_part(open_driver, cluster):
    cluster.version = (1, 20)
    driver = open_driver(pack=4)
    attempts = [driver.shell(f"exit {n}") for n in range(10)]
    driver.run(*attempts)
    assert [driver.end(attempt).exit_code for attempt in attempts] == list(range(10))
    assert len(cluster.objects("jobs")) == 3


def test_an_indexed_job_survives_a_driver(open_driver, cluster):
    driver = open_driver(pack=2)
    gate = driver.directory / "gate"
    attempts = [driver.gated(gate, code) for code in range(6)]
    driver.run(*attempts)
    driver.wait_for(lambda: len(ledger_of(driver)) == 3, "the first of each part starts")
    driver.close()
    driver.open()
    found = driver.find(*attempts)
    assert [found[each.tag].state for each in attempts] == [JobState.RUNNING, JobState.SUBMITTED] * 3
    gate.touch()
    assert [driver.end(attempt).exit_code for attempt in attempts] == list(range(6))
    assert len(ledger_of(driver)) == 6


NUMBERED = 'echo "$2" >> "$1.ledger"; while [ ! -e "$1" ]; do sleep 0.05; done'


@pytest.mark.parametrize("indexed", [False, True])
def test_a_cancelled_job_of_a_pack_takes_others_along_as_infrastructure(open_driver, cluster, indexed):
    """What drawbar takes along is not cancelled: those are repeated, and run once more at most."""
    driver = open_driver(pack=3)
    gate = driver.directory / "gate"
    attempts = [driver.shell(NUMBERED, str(gate), str(number)) for number in range(6 if indexed else 3)]
    driver.run(*attempts)
    driver.wait_for(lambda: ledger_of(driver), "the first job of a pack starts")
    cancelled = int(ledger_of(driver)[0])
    driver.cancel(attempts[cancelled])
    results = [driver.end(attempt) for attempt in attempts]
    assert results.pop(cancelled).reason is Reason.CANCELLED
    assert {result.reason for result in results} <= INFRASTRUCTURE
    assert any("another job of its pack" in result.message for result in results)
    begun = ledger_of(driver)
    assert len(begun) == len(set(begun))


@pytest.mark.parametrize("indexed", [False, True])
def test_a_cancelled_job_of_a_pack_that_waits_leaves_the_others_alone(open_driver, cluster, indexed):
    driver = open_driver(pack=3)
    gate = driver.directory / "gate"
    attempts = [driver.shell(NUMBERED, str(gate), str(number)) for number in range(6 if indexed else 3)]
    driver.run(*attempts)
    driver.wait_for(lambda: ledger_of(driver), "the first job of a pack starts")
    driver.cancel(attempts[1])
    assert driver.end(attempts[1]).reason is Reason.CANCELLED
    gate.touch()
    rest = [number for number in range(len(attempts)) if number != 1]
    assert all(driver.end(attempts[number]).ok for number in rest)
    assert sorted(map(int, ledger_of(driver))) == rest
    assert len(cluster.objects("jobs")) == 1


def test_a_pack_is_made_without_what_was_cancelled_before(open_driver, cluster):
    cluster.refusing = 403
    driver = open_driver(pack=2)
    attempts = [driver.gated(driver.directory / "gate", number) for number in range(5)]
    driver.run(*attempts)
    driver.wait_for(lambda: any("cannot" in each.message for each in driver.watch.statuses), "it waits")
    driver.cancel(attempts[0])
    assert driver.end(attempts[0]).reason is Reason.CANCELLED
    (driver.directory / "gate").touch()
    cluster.refusing = 0
    assert [driver.end(attempt).exit_code for attempt in attempts[1:]] == [1, 2, 3, 4]
    (job,) = cluster.objects("jobs")
    assert sorted(manifest.parts_of(job)) == sorted(attempt.tag for attempt in attempts[1:])
    assert not any(path.endswith("/jobs") for verb, path in cluster.calls if verb == "DELETE")


def test_a_pack_that_goes_on_in_another_pod_may_be_ended_there(open_driver, cluster):
    """A pod that is being deleted has a successor, whose job began; then the Job fails for the first pod."""
    cluster.hasty = True
    driver = open_driver(pack=3, grace_s=20.0)
    gate = driver.directory / "gate"
    until_two = (
        'trap "" TERM; echo 0 >> "$1.ledger"; until grep -q 1 "$1.ledger"; do sleep 0.05; done; exit 1'
    )
    attempts = [
        driver.shell(until_two, str(gate)),
        *(driver.shell(NUMBERED, str(gate), str(number)) for number in (1, 2)),
    ]
    driver.run(*attempts)
    driver.wait_for(lambda: ledger_of(driver), "the first job of a pack starts")
    cluster.delete_pod(cluster.objects("pods")[0]["metadata"]["name"])
    results = [driver.end(attempt) for attempt in attempts]
    assert [result.reason for result in results][:2] == [Reason.EVICTED, Reason.EVICTED]
    assert results[2].reason in INFRASTRUCTURE
    assert ledger_of(driver) == ["0", "1"]


def test_an_indexed_pack_tells_each_part_of_its_own_pod(open_driver, cluster):
    """So that what is told does not grow with the parts."""
    cluster.instant = True
    driver = open_driver(pack=2)
    attempts = [driver.attempt("true") for _ in range(40)]
    driver.run(*attempts)
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert len(driver.watch.statuses) <= 10 * len(attempts)


def test_a_token_that_was_rotated_is_read_anew(tmp_path, monkeypatch):
    """In a pod, whose node replaces the file of its account's token; the library looks once a minute."""
    account, key = tmp_path / "account", tmp_path / "key"
    account.mkdir()
    (account / "namespace").write_text("wf")
    (account / "token").write_text("first")
    wish = (
        "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=fake -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", key, "-out", account / "ca.crt"]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", *wish.split(), *files], check=True, capture_output=True
    )
    server = FakeCluster(tmp_path)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(account / "ca.crt", key)
    with server:
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        monkeypatch.setattr("drawbar_kubernetes.api._ACCOUNT", account)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
        api = Api(None, None, None)
        assert api.version() == server.version
        assert api.namespace == "wf"
        (account / "token").write_text("second")
        monkeypatch.setattr(
            incluster_config, "datetime", SimpleNamespace(datetime=InTwoMinutes, timedelta=timedelta)
        )
        assert api.list("jobs", "")[0] == []
        api.close()
    assert server.tokens == ["bearer first", "bearer second"]


class InTwoMinutes(datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + timedelta(minutes=2)
