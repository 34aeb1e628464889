"""Engines are told where a job goes when its image is known; what is known is remembered."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from drawbar.backend import API, Backend, BackendFeature
from drawbar.codec import encode
from drawbar.engine import StepInfo, WorkflowInfo
from drawbar.model import Resources
from drawbar.placement import Placer
from drawbar.placing import Placing
from drawbar.plugins import Plugins
from drawbar.settings import Settings

QUESTION = {
    "step": "s",
    "image": "img:1",
    "image_required": True,
    "resources": encode(Resources()),
    "hints": {},
    "workspace": "shared",
}
PATIENCE_S = 30


class Farm(Backend):
    name = "farm"
    api = API
    features = frozenset({BackendFeature.CONTAINERS})

    def __init__(self, options):
        super().__init__(options)
        self.fetches = []
        self.gate = threading.Event()
        self.digest = "sha256:1"

    def submit(self, attempts):
        return []

    def find(self, attempts):
        return {}

    def cancel(self, attempts):
        pass

    def fetch_image(self, image, progress):
        self.fetches.append(image)
        progress(f"fetching {image}")
        progress(f"fetching {image}: half")
        assert self.gate.wait(PATIENCE_S)
        if self.digest is None:
            raise OSError("the registry does not answer")
        return self.digest


class Drive:
    """Stands in for the driver: what is posted is done when it is waited for."""

    def __init__(self, facts, tmp_path):
        self.facts, self.kept = facts, []
        self.sent, self.notes = [], []
        self.posted, self.changed = deque(), threading.Condition()
        self.backend = Farm(Farm.Options())
        placer = Placer(Settings(home=tmp_path), Plugins(), backend="farm", backends={"farm": self.backend})
        self.placing = Placing(
            placer,
            facts,
            keep=lambda: self.kept.append(dict(facts)),
            send=self.sent.append,
            note=self.notes.append,
            post=self.post,
        )

    def post(self, work):
        with self.changed:
            self.posted.append(work)
            self.changed.notify()

    def until(self, true):
        while not true():
            with self.changed:
                assert self.changed.wait_for(lambda: self.posted, PATIENCE_S)
                work = self.posted.popleft()
            work()


@pytest.fixture
def drive(tmp_path):
    drives = []

    def make(**facts):
        drives.append(Drive(facts, tmp_path))
        return drives[-1]

    yield make
    for each in drives:
        each.backend.gate.set()


def test_an_image_is_fetched_once_and_everyone_who_asks_hears_which_it_is(drive):
    one = drive()
    one.placing.begin(WorkflowInfo(steps=(StepInfo(name="s", image="img:1"), StepInfo(name="t"))))
    one.placing.place(QUESTION)
    one.placing.place(QUESTION)
    one.until(lambda: one.notes)
    assert one.placing.busy
    assert one.sent == []
    one.backend.gate.set()
    one.until(lambda: len(one.sent) == 2)
    assert [(kind, answer["image_digest"]) for kind, answer in one.sent] == [("placed", "sha256:1")] * 2
    assert not one.placing.busy
    assert one.backend.fetches == ["img:1"]
    assert one.notes == ["fetching img:1"]  # and not every step of it
    assert one.kept == [{"images": {"farm": {"img:1": "sha256:1"}}}]


def test_a_job_without_an_image_does_not_wait(drive):
    one = drive()
    one.placing.place({**QUESTION, "image": None})
    assert one.sent[0][1].get("image_digest") is None


def test_an_image_that_cannot_be_had_now_is_the_one_that_the_run_saw_last(drive):
    one = drive(images={"farm": {"img:1": "sha256:0"}})
    one.backend.digest = None
    one.backend.gate.set()
    one.placing.place(QUESTION)
    one.until(lambda: one.sent)
    assert one.sent[0][1]["image_digest"] == "sha256:0"
    assert one.kept == []


def test_a_cancelled_run_waits_for_no_image(drive):
    one = drive()
    one.placing.place(QUESTION)
    one.placing.give_up()
    assert [kind for kind, _ in one.sent] == ["placed"]
    one.placing.place(QUESTION)
    assert [kind for kind, _ in one.sent] == ["placed"] * 2
