"""The workflow documents that cwltool's own distribution carries, and what cwltool makes of them."""

from __future__ import annotations

import io
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(find_spec("cwltool").origin).parent / "tests" / "wf"
DOCUMENTS = sorted(path.name for path in FOLDER.glob("*.cwl"))
_AUTOMATIC = re.compile("[0-9a-f]{40}")
"""The name of a standard stream without a name; drawbar's does not depend on where the document lies."""


def warm():
    """Load cwltool and the schemas of the language, for the copies of this process that use them."""
    from drawbar_cwl import schemas
    from drawbar_cwl.engine import CwlEngine

    CwlEngine.preload()
    schemas.install()  # cwltool forgets and asks again, at every start


def job_of(document):
    """The input object that lies beside a document."""
    stem = FOLDER / Path(document).stem
    names = [f"{stem}{end}{kind}" for end in ("-job", "_job", "") for kind in (".json", ".yml", ".yaml")]
    return next((name for name in names if Path(name).exists()), None)


def plain(value):
    """An output object without places."""
    if isinstance(value, dict):
        places = ("location", "path", "http://commonwl.org/cwltool#generation")
        kept = {key: plain(each) for key, each in value.items() if key not in places}
        if _AUTOMATIC.fullmatch(str(kept.get("basename"))):
            kept["basename"] = "(automatic)"
        return kept
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def by_cwltool(document, job, place, *flags):
    """Its output object; None when it fails. Changes directory: for a process of its own."""
    from cwltool.main import main

    arguments = ["--quiet", "--relax-path-checks", *flags, "--outdir", str(place), str(FOLDER / document)]
    said = io.StringIO()
    os.chdir(place)
    try:
        status = main([*arguments, *([job] if job else [])], stdout=said, stderr=io.StringIO())
    except SystemExit:  # how it refuses some input objects
        return None
    return plain(json.loads(said.getvalue())) if status == 0 else None
