"""What must be so on the fake cluster and on a real one alike, by their `cluster` and `open_driver`.

`cluster` has `objects(kind)`, `delete_pod(name)`, `delete_job(name)` and `evict(name)`.
"""

from __future__ import annotations

from drawbar.model import JobState, Reason, Resources

MISSING = "localhost/there-is-none:1"


def ledger_of(driver):
    path = driver.directory / "gate.ledger"
    return path.read_text().splitlines() if path.exists() else []


def running(driver, count=1, **fields):
    """Attempts whose command has begun; they wait for a gate."""
    attempts = [driver.gated(driver.directory / "gate", **fields) for _ in range(count)]
    driver.run(*attempts)
    driver.wait_for(lambda: len(ledger_of(driver)) == count, "accepted jobs start")
    return attempts


def pod_of(cluster, attempt):
    (pod,) = [
        each["metadata"]["name"]
        for each in cluster.objects("pods")
        if each["metadata"]["labels"].get("drawbar.tag") == attempt.tag
    ]
    return pod


def job_of(cluster, attempt):
    (job,) = [
        each["metadata"]["name"]
        for each in cluster.objects("jobs")
        if each["metadata"]["labels"].get("drawbar.tag") == attempt.tag
    ]
    return job


class Behaviour:
    def test_a_pod_that_somebody_deletes_is_evicted(self, open_driver, cluster):
        driver = open_driver()
        (attempt,) = running(driver)
        cluster.delete_pod(pod_of(cluster, attempt))
        assert driver.end(attempt).reason is Reason.EVICTED
        assert len(ledger_of(driver)) == 1

    def test_a_pod_that_is_evicted_is_evicted(self, open_driver, cluster):
        driver = open_driver()
        (attempt,) = running(driver)
        cluster.evict(pod_of(cluster, attempt))
        assert driver.end(attempt).reason is Reason.EVICTED
        assert len(ledger_of(driver)) == 1

    def test_a_job_that_somebody_deletes_is_evicted(self, open_driver, cluster):
        driver = open_driver()
        (attempt,) = running(driver)
        cluster.delete_job(job_of(cluster, attempt))
        assert driver.end(attempt).reason is Reason.EVICTED
        assert len(ledger_of(driver)) == 1

    def test_what_was_deleted_after_its_end_has_its_own_code(self, open_driver, cluster):
        """Nobody watches while it ends and is deleted, and its record says how that was."""
        driver = open_driver()
        (attempt,) = running(driver, exit_code=9)
        driver.close()
        (driver.directory / "gate").touch()
        driver.wait_for(
            lambda: any(job["status"].get("conditions") for job in cluster.objects("jobs")), "a job ends"
        )
        cluster.delete_job(job_of(cluster, attempt))
        driver.wait_for(lambda: not cluster.objects("pods"), "its pod is deleted with it")
        driver.open()
        assert driver.find(attempt)[attempt.tag].result.exit_code == 9

    def test_what_was_deleted_while_nobody_watched_is_lost(self, open_driver, cluster):
        driver = open_driver()
        (attempt,) = running(driver)
        driver.close()
        cluster.delete_job(job_of(cluster, attempt))
        driver.wait_for(lambda: not cluster.objects("pods"), "its pod is deleted with it")
        driver.open()
        result = driver.find(attempt)[attempt.tag].result
        assert result.reason in (Reason.EVICTED, Reason.LOST)

    def test_an_image_that_cannot_be_had(self, open_driver, cluster):
        """It waits for a while, as a registry may come back, and says so; then it fails."""
        driver = open_driver(image=MISSING, image_wait_s=2.0)
        attempt = driver.shell("exit 0")
        driver.run(attempt)
        result = driver.end(attempt)
        assert result.reason is Reason.IMAGE
        told = [status.message for status in driver.watch.of(attempt) if status.state is JobState.SUBMITTED]
        assert any(MISSING in message for message in told)
        assert MISSING in result.message
        driver.wait_for(lambda: not cluster.objects("jobs"), "its Job is deleted")

    def test_a_name_that_is_taken_is_the_same_job(self, open_driver, cluster):
        """A second driver, that knows nothing of the first, hands the same attempt over."""
        first, second = open_driver(), open_driver()
        (attempt,) = running(first)
        second.run(attempt)
        (first.directory / "gate").touch()
        assert first.end(attempt).ok
        assert second.end(attempt).ok
        assert len(ledger_of(first)) == 1

    def test_two_drivers_see_only_their_own(self, open_driver, cluster):
        first, second = open_driver(), open_driver()
        attempts = [each.shell("exit 3") for each in (first, second)]
        for each, attempt in zip((first, second), attempts, strict=True):
            each.run(attempt)
            assert each.end(attempt).exit_code == 3
            assert {status.tag for status in each.watch.statuses} == {attempt.tag}

    def test_results_are_forgotten_with_their_jobs(self, open_driver, cluster):
        driver = open_driver()
        attempts = [driver.shell("exit 0") for _ in range(3)]
        driver.run(*attempts)
        for attempt in attempts:
            driver.end(attempt)
        assert len(cluster.objects("jobs")) == 3
        driver.call(driver.backend.forget, attempts)
        driver.wait_for(
            lambda: not cluster.objects("jobs"), "Jobs are deleted once their results are durable"
        )

    def test_a_pack_runs_in_one_pod(self, open_driver, cluster):
        driver = open_driver(pack=4)
        attempts = [
            driver.shell(f'echo {n} >> "$1"; exit {n}', str(driver.directory / "order")) for n in range(6)
        ]
        driver.run(*attempts)
        assert [driver.end(attempt).exit_code for attempt in attempts] == list(range(6))
        assert sorted((driver.directory / "order").read_text().split()) == list("012345")
        assert len(cluster.objects("pods")) == 2

    def test_a_pack_survives_a_driver(self, open_driver, cluster):
        driver = open_driver(pack=2)
        attempts = [driver.gated(driver.directory / "gate", n) for n in (5, 6)]
        driver.run(*attempts)
        driver.wait_for(lambda: ledger_of(driver), "the first job of a pack starts")
        driver.close()
        driver.open()
        found = driver.find(*attempts)
        assert [found[each.tag].state for each in attempts] == [JobState.RUNNING, JobState.SUBMITTED]
        (driver.directory / "gate").touch()
        assert [driver.end(attempt).exit_code for attempt in attempts] == [5, 6]
        assert len(ledger_of(driver)) == 2

    def test_a_pack_whose_pod_is_deleted_goes_on_or_is_repeated(self, open_driver, cluster):
        """Some clusters start another pod for the rest of it, and some do not.

        Version 1.20 starts one as soon as the first is being deleted, and may count the first as failed
        when it has gone. Then the Job has failed, and the second pod is ended with what has begun in it.
        So a job of the rest may have begun and be evicted, which is right: it has begun once, in one pod
        (`started` is made by exactly one), and is repeated as a new attempt. The fake shows that case in
        `test_a_pack_that_goes_on_in_another_pod_may_be_ended_there`.
        """
        driver = open_driver(pack=3)
        gate = driver.directory / "gate"
        script = 'echo "$2" >> "$1.ledger"; while [ ! -e "$1" ]; do sleep 0.05; done'
        attempts = [driver.shell(script, str(gate), str(number)) for number in range(3)]
        driver.run(*attempts)
        driver.wait_for(lambda: ledger_of(driver), "the first job of a pack starts")
        (pod,) = [each["metadata"]["name"] for each in cluster.objects("pods")]
        cluster.delete_pod(pod)
        first = driver.end(attempts[0])
        gate.touch()
        rest = [driver.end(attempt) for attempt in attempts[1:]]
        assert first.reason in (Reason.EVICTED, Reason.LOST)
        assert {result.reason for result in rest} <= {None, Reason.EVICTED, Reason.LOST}
        begun = ledger_of(driver)
        assert len(begun) == len(set(begun))
        assert {str(number) for number, result in enumerate(rest, 1) if result.ok} <= set(begun)

    def test_a_wall_time_is_kept_in_the_pod(self, open_driver, cluster):
        """Also when no driver is there to keep it."""
        driver = open_driver()
        (attempt,) = running(driver, resources=Resources(walltime_s=2))
        driver.close()
        driver.wait_for(
            lambda: any(job["status"].get("conditions") for job in cluster.objects("jobs")), "a job ends"
        )
        driver.open()
        result = driver.find(attempt)[attempt.tag].result
        assert result.reason is Reason.TIMEOUT
