"""Calls in order on a thread of their own, each answered once, the ones beyond the deadline too."""

from __future__ import annotations

import threading
import time

import pytest
from drawbar.errors import BackendError
from drawbar.lanes import Lane

PATIENCE_S = 20.0


class Answers:
    def __init__(self) -> None:
        self.all: list = []
        self._changed = threading.Condition()

    def __call__(self, value, error) -> None:
        with self._changed:
            self.all.append((value, error))
            self._changed.notify_all()

    def wait(self, count: int, lane: Lane | None = None) -> list:
        until = time.monotonic() + PATIENCE_S
        with self._changed:
            while len(self.all) < count:
                assert time.monotonic() < until, self.all
                self._changed.wait(0.02)
                if lane is not None:
                    self._changed.release()
                    lane.overdue(time.monotonic())
                    self._changed.acquire()
        return self.all


@pytest.fixture
def lanes():
    made = []

    def make(deadline_s: float = PATIENCE_S) -> Lane:
        made.append(Lane("test", deadline_s))
        return made[-1]

    yield make
    for lane in made:
        lane.close()


def test_calls_are_made_in_order_on_one_thread(lanes):
    lane, answers, threads = lanes(), Answers(), set()
    for number in range(50):
        lane.call(lambda number=number: threads.add(threading.get_ident()) or number, answers)
    assert answers.wait(50) == [(number, None) for number in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_exception_is_the_answer(lanes):
    lane, answers = lanes(), Answers()
    lane.call(lambda: 1 / 0, answers)
    lane.call(lambda: 2, answers)
    (_, error), second = answers.wait(2)
    assert isinstance(error, ZeroDivisionError)
    assert second == (2, None)


def test_beyond_the_deadline_the_answer_is_an_error_once_and_the_late_one_ignored(lanes):
    lane, answers, gate = lanes(0.1), Answers(), threading.Event()
    ended = threading.Event()
    lane.call(lambda: gate.wait(PATIENCE_S) and ended.set(), answers)
    lane.call(lambda: "next", answers)
    (_, error), second = answers.wait(2, lane)
    assert isinstance(error, BackendError)
    assert error.transient
    assert "0 s" in str(error) or "answer" in str(error)
    assert second == ("next", None)
    gate.set()
    assert ended.wait(PATIENCE_S)
    lane.call(lambda: "last", answers)
    assert answers.wait(3)[2:] == [("last", None)]


def test_a_call_that_hangs_delays_no_other_lane(lanes):
    stuck, free, gate, answers = lanes(), lanes(), threading.Event(), Answers()
    stuck.call(lambda: gate.wait(PATIENCE_S), Answers())
    free.call(lambda: 1, answers)
    assert answers.wait(1) == [(1, None)]
    gate.set()


def test_what_is_in_time_is_not_given_up(lanes):
    lane, answers = lanes(), Answers()
    lane.overdue(time.monotonic() + 1e6)
    lane.call(lambda: 1, answers)
    answers.wait(1)
    lane.overdue(time.monotonic() + 1e6)
    assert answers.all == [(1, None)]


def test_closing_drops_what_waits_and_ends_the_thread(lanes):
    lane, gate, answers, started = lanes(), threading.Event(), Answers(), threading.Event()
    lane.call(lambda: started.set() or gate.wait(PATIENCE_S), answers)
    lane.call(lambda: "never", answers)
    assert started.wait(PATIENCE_S)
    threading.Timer(0.05, gate.set).start()
    lane.close()
    assert answers.all == [(True, None)]
    assert not any(thread.name == "test" for thread in threading.enumerate())


def test_a_lane_without_calls_has_no_thread(lanes):
    before = threading.active_count()
    lanes().close()
    assert threading.active_count() == before
