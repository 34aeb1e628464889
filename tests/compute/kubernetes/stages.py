"""Where a driver may be killed, as strike.py has it, in the order in which it comes there."""

from __future__ import annotations

BACKEND = "drawbar_kubernetes.backend:KubernetesBackend"
POINTS = {
    "before the intent": ("before", "drawbar.dispatcher:Dispatcher.submit"),
    "after the intent": ("before", f"{BACKEND}.submit"),
    "after the claim": ("after", "drawbar_kubernetes.records:set_job"),
    "before the creation": ("before", "drawbar_kubernetes.api:Api.create"),
    "after the creation": ("after", "drawbar_kubernetes.api:Api.create"),
    "before the answer is stored": ("after", f"{BACKEND}.submit"),
    "before the end is told": ("before", "drawbar_kubernetes.follow:Follower.end"),
    "after the end": ("before", "drawbar.dispatcher:Dispatcher.accept"),
    "before the deletion": ("before", "drawbar_kubernetes.api:Api.delete"),
}
