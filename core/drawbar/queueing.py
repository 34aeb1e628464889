"""Which of the waiting jobs may go to a backend now: limits on jobs, cores, memory and submissions.

Waiting jobs are kept by what they ask for, so that choosing costs the number of different wishes and
not the number of jobs. The oldest job that fits goes first; one that was passed over `_PATIENCE`
times is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from drawbar.model import Resources
from drawbar.settings import Limits

_PATIENCE = 100

T = TypeVar("T")


class Cost(NamedTuple):
    """What a job takes of a budget while it is in flight."""

    cpus: float
    memory_mib: int

    @classmethod
    def of(cls, resources: Resources) -> Cost:
        """The cost of a job with these resources."""
        return cls(resources.cpus, resources.memory_mib or resources.memory_limit_mib or 0)


@dataclass(slots=True)
class Budget:
    """A bound on what is in flight at once; None is no bound. Shared by all that must keep it."""

    name: str
    jobs: int | None = None
    cpus: float | None = None
    memory_mib: int | None = None
    used_jobs: int = 0
    used_cpus: float = 0.0
    used_memory_mib: int = 0

    @classmethod
    def of(cls, name: str, limits: Limits) -> Budget:
        """The budget that settings give."""
        return cls(name, limits.jobs_in_flight, limits.cpus, limits.memory_mib)

    def excess(self, cost: Cost) -> str | None:
        """Why a job can never fit, or None."""
        if self.cpus is not None and cost.cpus > self.cpus:
            return f"asks for {cost.cpus:g} cpus, and {self.name} has {self.cpus:g}"
        if self.memory_mib is not None and cost.memory_mib > self.memory_mib:
            return f"asks for {cost.memory_mib} MiB of memory, and {self.name} has {self.memory_mib}"
        return None

    def fits(self, cost: Cost) -> bool:
        """Whether a job with this cost may start now."""
        return (
            (self.jobs is None or self.used_jobs < self.jobs)
            and (self.cpus is None or self.used_cpus + cost.cpus <= self.cpus + 1e-9)
            and (self.memory_mib is None or self.used_memory_mib + cost.memory_mib <= self.memory_mib)
        )

    def take(self, cost: Cost, sign: int = 1) -> None:
        """Count a job in, or out."""
        self.used_jobs += sign
        self.used_cpus += sign * cost.cpus
        self.used_memory_mib += sign * cost.memory_mib


@dataclass(slots=True)
class Rate:
    """At most so many submissions a minute, in bursts of up to a tenth of that."""

    per_minute: float | None = None
    tokens: float = 1.0
    checked: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether there may be one more; `now` is a monotonic time in seconds."""
        if self.per_minute is None:
            return True
        burst = max(1.0, self.per_minute / 10)
        self.tokens = min(burst, self.tokens + (now - self.checked) * self.per_minute / 60)
        self.checked = now
        return self.tokens >= 1

    def take(self) -> None:
        """Count a submission that `allows` has just allowed."""
        self.tokens -= self.per_minute is not None

    @property
    def wait_s(self) -> float | None:
        """How long until the next submission may go; None when nothing is waited for."""
        return None if self.per_minute is None else max(0.0, (1 - self.tokens) * 60 / self.per_minute)


@dataclass(slots=True)
class Queue(Generic[T]):
    """Jobs that wait for one backend, under its budgets and its rate."""

    budgets: Sequence[Budget]
    rates: Sequence[Rate] = ()
    waiting: dict[Cost, deque[tuple[int, T]]] = field(default_factory=dict)
    passed: int = 0
    count: int = 0
    oldest: int = -1
    size: int = 0

    def push(self, item: T, cost: Cost) -> None:
        """Add a job at the end."""
        self.waiting.setdefault(cost, deque()).append((self.count, item))
        self.count += 1
        self.size += 1

    def pop(self, now: float) -> T | None:
        """The next job that may start, counted into the budgets; None when none may."""
        heads = sorted((lane[0][0], cost) for cost, lane in self.waiting.items())
        if not heads:
            return None
        if heads[0][0] != self.oldest:
            self.oldest, self.passed = heads[0][0], 0
        for place, (_, cost) in enumerate(heads):
            if place and self.passed >= _PATIENCE:
                return None
            if all(budget.fits(cost) for budget in self.budgets):
                if not all(rate.allows(now) for rate in self.rates):
                    return None
                for rate in self.rates:
                    rate.take()
                self.passed += place > 0
                self.take(cost)
                return self._remove(cost)
        return None

    def take(self, cost: Cost) -> None:
        """A job is in flight: count it into the budgets."""
        for budget in self.budgets:
            budget.take(cost)

    def release(self, cost: Cost) -> None:
        """A job ended: count it out of the budgets."""
        for budget in self.budgets:
            budget.take(cost, -1)

    def take_out(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out every waiting job of which `unwanted` holds, the oldest first."""
        out: list[tuple[int, T]] = []
        for cost, lane in list(self.waiting.items()):
            out += [entry for entry in lane if unwanted(entry[1])]
            self.waiting[cost] = deque(entry for entry in lane if not unwanted(entry[1]))
            if not self.waiting[cost]:
                del self.waiting[cost]
        self.size -= len(out)
        return [item for _, item in sorted(out, key=lambda entry: entry[0])]

    def excess(self, cost: Cost) -> str | None:
        """Why a job with this cost would wait for ever, or None."""
        return next((why for budget in self.budgets if (why := budget.excess(cost))), None)

    @property
    def wait_s(self) -> float | None:
        """When to ask again if nobody releases anything; None for never."""
        waits = [wait for rate in self.rates if (wait := rate.wait_s)] if self.size else []
        return max(waits, default=None)

    def _remove(self, cost: Cost) -> T:
        lane = self.waiting[cost]
        _, item = lane.popleft()
        if not lane:
            del self.waiting[cost]
        self.size -= 1
        return item
