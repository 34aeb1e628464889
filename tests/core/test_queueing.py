"""Which waiting job goes next: budgets, backfill, nobody waits for ever, and rates."""

from __future__ import annotations

import time

import pytest
from drawbar.model import Resources
from drawbar.queueing import Budget, Cost, Queue, Rate
from drawbar.settings import Limits

SMALL, LARGE = Cost(1, 100), Cost(4, 100)


def drained(queue: Queue, now: float = 0.0) -> list:
    out = []
    while (item := queue.pop(now)) is not None:
        out.append(item)
    return out


def test_jobs_go_in_the_order_in_which_they_came():
    queue = Queue([])
    for number, cost in enumerate([SMALL, LARGE, SMALL, LARGE]):
        queue.push(number, cost)
    assert queue.size == 4
    assert drained(queue) == [0, 1, 2, 3]
    assert (queue.size, queue.pop(0.0)) == (0, None)


@pytest.mark.parametrize(
    ("limits", "together"),
    [
        ({"jobs": 2}, 2),
        ({"cpus": 3}, 3),
        ({"memory_mib": 250}, 2),
        ({"jobs": 4, "cpus": 2.5, "memory_mib": 1000}, 2),
        ({}, 10),
    ],
)
def test_no_more_goes_than_fits(limits, together):
    budget = Budget("b", **limits)
    queue = Queue([budget])
    for number in range(10):
        queue.push(number, SMALL)
    assert drained(queue) == list(range(together))
    if together < 10:
        queue.release(SMALL)
        assert drained(queue) == [together]


def test_fractions_of_cpus_add_up():
    queue = Queue([Budget("b", cpus=1)])
    for number in range(20):
        queue.push(number, Cost(0.1, 0))
    assert len(drained(queue)) == 10


def test_budgets_are_shared_between_queues():
    shared = Budget("all", jobs=3)
    queues = [Queue([shared, Budget("own", jobs=2)]) for _ in range(2)]
    for queue in queues:
        for number in range(5):
            queue.push(number, SMALL)
    assert [len(drained(queue)) for queue in queues] == [2, 1]


def test_a_smaller_job_fills_what_a_larger_one_leaves():
    queue = Queue([Budget("b", cpus=4)])
    queue.push("running", Cost(2, 0))
    queue.push("large", LARGE)
    queue.push("small", SMALL)
    assert drained(queue) == ["running", "small"]


def test_a_large_job_is_not_passed_over_for_ever():
    """With a stream of small jobs that would always fit, the large one goes after a bounded time."""
    queue = Queue([Budget("b", cpus=4)])
    for number in range(4):
        queue.push(number, SMALL)
    running = drained(queue)
    queue.push("large", LARGE)
    passed = 0
    while "large" not in running:
        queue.push(f"more {passed}", SMALL)
        if running:
            running.pop(0)
            queue.release(SMALL)
        running += drained(queue)
        passed += 1
        assert passed < 1000
    assert passed > 10


def test_what_never_fits_is_told_with_the_bound():
    queue = Queue([Budget("the first"), Budget("the second", cpus=2, memory_mib=50)])
    assert queue.excess(Cost(1, 50)) is None
    assert queue.excess(Cost(3, 0)) == "asks for 3 cpus, and the second has 2"
    assert queue.excess(Cost(1, 51)) == "asks for 51 MiB of memory, and the second has 50"


def test_costs_and_budgets_come_from_what_is_asked_and_allowed():
    assert Cost.of(Resources()) == (1, 0)
    assert Cost.of(Resources(cpus=2, memory_mib=10, memory_limit_mib=20)) == (2, 10)
    assert Cost.of(Resources(memory_limit_mib=20)) == (1, 20)
    budget = Budget.of("b", Limits(jobs_in_flight=1, cpus=2.0, memory_mib=3))
    assert (budget.jobs, budget.cpus, budget.memory_mib) == (1, 2.0, 3)


def test_what_is_taken_out_goes_nowhere():
    queue = Queue([Budget("b", jobs=1)])
    for number in range(6):
        queue.push(number, SMALL if number % 2 else LARGE)
    assert queue.take_out(lambda number: number in (4, 1, 9)) == [1, 4]
    assert (queue.size, queue.pop(0.0), queue.pop(0.0)) == (4, 0, None)
    assert queue.take_out(lambda _: True) == [2, 3, 5]
    assert queue.size == 0


def test_a_rate_bounds_submissions_over_time():
    queue = Queue([], [Rate(60)])
    for number in range(100):
        queue.push(number, SMALL)
    assert len(drained(queue, 1000.0)) == 6  # the burst
    assert queue.wait_s == pytest.approx(1.0)
    assert len(drained(queue, 1000.5)) == 0
    assert len(drained(queue, 1001.1)) == 1
    assert len(drained(queue, 1031.1)) == 6
    assert len(queue.take_out(lambda _: True)) == 87
    assert queue.wait_s is None


def test_a_rate_that_refuses_costs_no_other_rate_anything():
    general = Rate(60)
    slow, fast = Queue([], [general, Rate(1)]), Queue([], [general])
    for number in range(10):
        slow.push(number, SMALL)
        fast.push(number, SMALL)
    assert [len(drained(slow, 1000.0)) for _ in range(10)] == [1] + [0] * 9
    assert len(drained(fast, 1000.0)) == 5


def test_without_a_rate_nothing_is_waited_for():
    queue = Queue([], [Rate(None)])
    queue.push(1, SMALL)
    assert queue.wait_s is None
    assert queue.pop(0.0) == 1


def test_the_cost_of_choosing_does_not_grow_with_what_waits():
    def spent(count: int) -> float:
        queue = Queue([Budget("b", jobs=10)])
        started = time.process_time()
        for number in range(count):
            queue.push(number, Cost(1, number % 5))
        gone = 0
        while queue.size:
            for _ in drained(queue):
                gone += 1
                queue.release(Cost(1, 0))
        assert gone == count
        return (time.process_time() - started) / count

    assert min(spent(20_000) for _ in range(2)) < 3 * min(spent(2000) for _ in range(3))
