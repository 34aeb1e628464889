"""Where the jobs of one drive go: answers an engine's questions, when the images that jobs need are known.

An image is fetched once, on a thread of its own, from when the workflow is known; a question about a
job that runs in it is answered when it is here, since its digest is part of the job's key. A digest
that cannot be had now is the one that the run saw last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from drawbar.choosing import Choice, choose
from drawbar.codec import decode, encode
from drawbar.engine import Placement, WorkflowInfo
from drawbar.errors import DrawbarError, Problem, SpecError
from drawbar.lanes import Lane
from drawbar.model import Resources, WorkspaceNeed
from drawbar.placement import Placer, check_places, remarks
from drawbar.places import Post
from drawbar.wire import Message

_FETCH_S = 3600.0
"""How long fetching an image may take before its jobs go on without knowing it."""
_REPORT_S = 10.0

_Image = tuple[str, str]
"""A backend and what is called an image there."""


class Placing:
    """For the driver's thread. `facts` are what the run remembers; `keep` is called when they changed."""

    def __init__(
        self,
        placer: Placer,
        facts: dict[str, Any],
        *,
        keep: Callable[[], None],
        send: Callable[[Message], None],
        note: Callable[[str], None],
        post: Post,
    ) -> None:
        self._placer = placer
        self._facts = facts
        self._keep = keep
        self._send = send
        self._note = note
        self._post = post
        self._fetches: dict[_Image, Lane] = {}
        self._digests: dict[_Image, str | None] = {}
        self._waiting: list[tuple[_Image, Placement]] = []
        self._told: dict[_Image, float] = {}
        self._given_up = False

    @property
    def busy(self) -> bool:
        """Whether an engine waits for an image."""
        return bool(self._waiting)

    def restore(self) -> None:
        """Go on with what the run chose when it was first driven."""
        if (choice := self._facts.get("choice")) is not None:
            kept = decode(Choice, choice)
            self._placer.follow(kept.backend, kept.containers)

    def begin(self, info: WorkflowInfo) -> None:
        """The workflow is known: choose where it runs, refuse what cannot, and begin to fetch its images."""
        if "choice" not in self._facts and (choice := choose(self._placer, info)) is not None:
            self._facts["choice"] = encode(choice)
            self._note(str(choice))
        placed = check_places(self._placer, info)
        for remark in remarks(placed):
            self._note(remark)
        for _, placement in placed:
            if (image := _image_of(placement)) is not None:
                self._fetch(image)

    def place(self, question: Mapping[str, Any]) -> None:
        """Answer an engine that asks where a job will run, at once or when its image is here."""
        try:
            placement = self._placer.place(
                **{
                    **question,
                    "resources": decode(Resources, question["resources"]),
                    "workspace": WorkspaceNeed(question["workspace"]),
                }
            )
        except SpecError as error:
            self._send(["refused", encode(error.problems)])
        except DrawbarError as error:
            self._send(["refused", [encode(Problem(message=str(error), step=question["step"]))]])
        else:
            image = _image_of(placement)
            if image is None:
                self._send(["placed", encode(placement)])
                return
            self._waiting.append((image, placement))
            self._fetch(image)
            self._answer()

    def overdue(self) -> None:
        """Give up what takes too long; to be called from time to time."""
        for lane in list(self._fetches.values()):
            lane.overdue(time.monotonic())

    def give_up(self) -> None:
        """Wait for no image any more: the run is cancelled."""
        self._given_up = True
        self._answer()

    def _fetch(self, image: _Image) -> None:
        if image in self._fetches:
            return
        name, reference = image
        backend = self._placer.get(name)
        lane = self._fetches[image] = Lane(f"drawbar-{name}-image", _FETCH_S)
        lane.call(
            lambda: backend.fetch_image(reference, lambda text: self._post(lambda: self._tell(image, text))),
            lambda digest, _: self._post(lambda: self._fetched(image, digest)),
        )

    def _tell(self, image: _Image, text: str) -> None:
        now = time.monotonic()
        if image not in self._digests and now - self._told.get(image, now - _REPORT_S) >= _REPORT_S:
            self._told[image] = now
            self._note(text)

    def _fetched(self, image: _Image, digest: str | None) -> None:
        self._fetches[image].close()
        if image in self._digests:
            return
        self._digests[image] = digest
        name, reference = image
        if digest and digest != self._seen(image):
            self._facts.setdefault("images", {}).setdefault(name, {})[reference] = digest
            self._keep()
        self._answer()

    def _seen(self, image: _Image) -> str | None:
        """The digest that the run saw last."""
        name, reference = image
        digest: str | None = self._facts.get("images", {}).get(name, {}).get(reference)
        return digest

    def _answer(self) -> None:
        """Tell the engine where jobs go whose images are known now."""
        waiting, self._waiting = self._waiting, []
        for image, placement in waiting:
            if image in self._digests or self._given_up:
                digest = self._digests.get(image) or self._seen(image)
                self._send(["placed", encode(replace(placement, image_digest=digest))])
            else:
                self._waiting.append((image, placement))


def _image_of(placement: Placement) -> _Image | None:
    if placement.image is None or not placement.container:
        return None
    return placement.backend, placement.image
