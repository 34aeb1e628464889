"""The contract, and what is so on any cluster, on the fake one; and what only that can show."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
from behaviour import Behaviour, ledger_of, pod_of, running
from drawbar.model import JobState, Reason
from drawbar.testing import BackendContract
from drawbar.testing.driver import Driver
from drawbar_kubernetes.backend import KubernetesBackend
from fake_cluster import FakeCluster

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


def test_a_job_without_a_pod_says_so(open_driver, cluster):
    driver = open_driver()
    cluster.pods_wanted = False
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    driver.wait_for(
        lambda: any("no pod" in each.message for each in driver.watch.of(attempt)),
        "it is told that it has none",
    )
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


def test_a_node_that_does_not_answer(open_driver, cluster):
    driver = open_driver(node_wait_s=1.0)
    (attempt,) = running(driver)
    cluster.lose_node(pod_of(cluster, attempt))
    assert driver.end(attempt).reason is Reason.NODE_LOST


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


def test_a_check_finds_a_volume_that_is_not_shared(make_backend, cluster, tmp_path):
    """The pod sees another file system at that place."""
    cluster.moved = (f"{tmp_path}/.drawbar-check", f"{tmp_path}/elsewhere")
    (problem,) = make_backend(check_s=20.0).check()
    assert "same file system" in str(problem)


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


def test_a_check_names_what_an_old_cluster_leaves_out(make_backend, cluster):
    cluster.left_out = ("ttlSecondsAfterFinished",)
    (problem,) = make_backend().check()
    assert "spec.ttlSecondsAfterFinished" in str(problem)


def test_a_check_without_a_cluster(tmp_path):
    values = {"kubeconfig": str(tmp_path / "none")}
    (problem,) = KubernetesBackend(KubernetesBackend.Options.parse(values, where="test")).check()
    assert "KUBECONFIG" in str(problem)


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
    driver.wait_for(lambda: not cluster.objects("jobs"), "Jobs are deleted")
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
