"""Whether an attempt that failed is repeated, and how: by the reason of its failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from drawbar.model import INFRASTRUCTURE, JobSpec, Reason, RetryPolicy


def next_attempt(spec: JobSpec, policy: RetryPolicy, reasons: Sequence[Reason]) -> JobSpec | None:
    """What to try after attempts that failed for these reasons, the last one last; None for no more.

    What the infrastructure did is repeated as it was, out-of-memory only with more of it. A command's
    own failure is the user's, unless the specification calls its code temporary.
    """
    reason = reasons[-1]
    if reason in INFRASTRUCTURE:
        done = sum(each in INFRASTRUCTURE for each in reasons)
        return spec if done <= policy.infrastructure else None
    if reason is Reason.TEMPORARY:
        return spec if reasons.count(reason) <= policy.temporary else None
    if reason is Reason.OUT_OF_MEMORY and reasons.count(reason) <= policy.out_of_memory:
        more = {
            name: int(value * policy.memory_factor)
            for name in ("memory_mib", "memory_limit_mib")
            if (value := getattr(spec.resources, name)) is not None
        }
        return replace(spec, resources=replace(spec.resources, **more)) if more else None
    return None
