"""A process that calls HTCondor's bindings, one request a line on standard input, one answer on the output.

The bindings may hold Python's lock while they wait for a schedd, and know no deadline: in the driver,
a schedd that does not answer would stop everything. This process can be killed, and ends by itself
when a call takes too long, so that it does not outlive a driver that was killed either.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Calls:
    """What may be asked; each method's arguments and answer are JSON values."""

    def __init__(self, schedd: str | None, pool: str | None) -> None:
        import htcondor2

        self._bindings: Any = htcondor2
        collector = htcondor2.Collector(pool) if pool else htcondor2.Collector()
        where = pool or htcondor2.param.get("COLLECTOR_HOST") or "(none is configured)"
        try:
            self._place = collector.locate(htcondor2.DaemonType.Schedd, schedd)
        except Exception as error:
            raise LookupError(f"the collector {where} does not say where the schedd is: {error}") from error
        if self._place is None:
            raise LookupError(f"the collector {where} knows no schedd {schedd or 'of this machine'}")
        self._schedd = htcondor2.Schedd(self._place)

    def submit(self, lines: Mapping[str, str], count: int) -> str:
        """One cluster; its number."""
        return str(self._schedd.submit(self._bindings.Submit(dict(lines)), count=count).cluster())

    def query(self, constraint: str, projection: list[str]) -> list[dict[str, Any]]:
        """The user's own jobs in the queue, and clusters of which jobs are still to be made."""
        options = self._bindings.QueryOpts
        mine = options.DefaultMyJobsOnly | options.IncludeClusterAd
        return _plain(self._schedd.query(constraint=constraint, projection=projection, opts=mine))

    def history(self, constraint: str, projection: list[str], since: str) -> list[dict[str, Any]]:
        """Jobs that have left the queue."""
        return _plain(self._schedd.history(constraint=constraint, projection=projection, since=since))

    def remove(self, ids: list[str], reason: str) -> None:
        """Jobs, and whole clusters by their number; those that are gone are no error."""
        self._schedd.act(self._bindings.JobAction.Remove, ids, reason=reason)

    def authorize(self) -> dict[str, Any]:
        """The schedd's version, what it takes this user for, and whether he may submit."""
        told = self._bindings.ping(self._place, "READ")
        try:
            self._bindings.ping(self._place, "WRITE")
            allowed = True
        except Exception:  # how the bindings tell of a schedd that answers, and forbids
            allowed = False
        return {
            "version": str(told.get("RemoteVersion", "")),
            "user": str(told.get("MyRemoteUserName", "")),
            "allowed": allowed,
        }


def _plain(ads: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ads without what is undefined, or no plain value."""
    return [{name: value for name, value in ad.items() if isinstance(value, str | int | float)} for ad in ads]


def main() -> None:
    """Answer requests until the input ends.

    The first line has seconds for each call and what `Calls` takes, each other one a method and its
    arguments.
    """
    warnings.simplefilter("ignore")  # about words in submit descriptions that HTCondor does not know: ours
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    timeout_s, place = json.loads(sys.stdin.readline())
    calls: Calls | None = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:
            calls = calls or Calls(**place)
            call: Callable[..., Any] = getattr(calls, method)
            answer = {"answer": call(**arguments)}
        except ImportError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # the bindings raise all sorts
            calls = None  # the schedd may come back at another address
            answer = {"error": str(error)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
