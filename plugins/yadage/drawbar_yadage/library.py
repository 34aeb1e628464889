"""What this engine replaces in yadage and packtivity, in its own process, so that a job costs the same
in a large workflow as in a small one. What they compute stays the same.
"""

from __future__ import annotations

import uuid
import warnings
from typing import Any

from drawbar_yadage import programs
from drawbar_yadage.values import Values, leaves


def load() -> None:
    """Import yadage, once, with its slow parts replaced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that use what others deprecate
        import glob2
        import jq
        import jsonpath_rw
        import packtivity.datamodel
        import packtivity.syncbackends
        import packtivity.utils
        import yadage.handlers.scheduler_handlers
        import yadage.wflow
        import yadage.wflowview
    jq.jq = programs.jq
    jsonpath_rw.parse = programs.jsonpath
    packtivity.datamodel.create = Values
    packtivity.utils.leaf_iterator = leaves
    yadage.handlers.scheduler_handlers.finalize_input = finalize_input
    yadage.wflowview.get_obj_id = identifier
    if glob2.glob is not sorted_glob:
        global _glob
        _glob, glob2.glob = glob2.glob, sorted_glob


def sorted_glob(pattern: str) -> list[str]:
    """The paths that a pattern matches, sorted, since a directory's own order differs between disks."""
    return sorted(_glob(pattern))


_glob: Any = None


def identifier(_: Any) -> str:
    """A new node's identifier: any, as by yadage's default, which first makes JSON of the whole node."""
    return str(uuid.uuid4())


def finalize_input(jsondata: Any, wflowview: Any) -> tuple[Any, list[Any]]:
    """The parameters with every reference to a result replaced by it, and the references that were used."""
    from yadage.tasks import outputReference

    used: list[Any] = []

    def finalize(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finalize(item) for key, item in value.items()}
        if isinstance(value, list):
            return [finalize(item) for item in value]
        if isinstance(value, outputReference):
            used.append(value)
            return wflowview.dag.getNode(value.stepid).result.resolve_ref(value.pointer)
        return value

    return finalize(jsondata), used
