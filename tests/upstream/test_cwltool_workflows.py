"""The documents of cwltool's own tests, which its distribution carries: equal outputs and verdicts.

Each is run by cwltool and by drawbar's engine, without containers, with the input object that lies beside it
if there is one.
"""

import io
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from drawbar.engine import Source, StepFailed
from drawbar.errors import SpecError
from drawbar.testing.child import forked
from drawbar.testing.memory import MemoryJobs

pytestmark = pytest.mark.slow

FOLDER = Path(find_spec("cwltool").origin).parent / "tests" / "wf"
DOCUMENTS = sorted(path.name for path in FOLDER.glob("*.cwl"))
AUTOMATIC = re.compile("[0-9a-f]{40}")
"""The name of a standard stream without a name; drawbar's does not depend on where the document lies."""
DEADLINE_S = 120


def job_of(document):
    stem = FOLDER / Path(document).stem
    names = [f"{stem}{end}{kind}" for end in ("-job", "_job", "") for kind in (".json", ".yml", ".yaml")]
    return next((name for name in names if Path(name).exists()), None)


def plain(value):
    """An output object without places."""
    if isinstance(value, dict):
        places = ("location", "path", "http://commonwl.org/cwltool#generation")
        kept = {key: plain(each) for key, each in value.items() if key not in places}
        if AUTOMATIC.fullmatch(str(kept.get("basename"))):
            kept["basename"] = "(automatic)"
        return kept
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def by_cwltool(document, job, place):
    from cwltool.main import main

    arguments = [
        "--no-container",
        "--quiet",
        "--relax-path-checks",
        "--outdir",
        str(place),
        str(FOLDER / document),
    ]
    said = io.StringIO()
    os.chdir(place)
    try:
        status = main([*arguments, *([job] if job else [])], stdout=said, stderr=io.StringIO())
    except SystemExit:  # how it refuses some input objects
        return None
    return plain(json.loads(said.getvalue())) if status == 0 else None


def by_drawbar(document, job, place):
    from drawbar_cwl.engine import CwlEngine

    place.mkdir()
    source = Source(
        root=place,
        document=place / "reana.yaml",
        specification={},
        options={"tool": str(FOLDER / document), "job": job, "outside": True, "no_container": True},
    )
    engine = CwlEngine()
    jobs = MemoryJobs(place)
    try:
        engine.inspect(source)
        value = engine.execute(source, jobs).value
    except (StepFailed, SpecError) as error:
        return f"failed: {error}"
    assert not jobs.violations
    again = jobs.restarted(seed=1)
    replayed = engine.execute(source, again).value
    assert not again.submitted, f"repeated: {again.submitted}"
    assert plain(replayed) == plain(value)
    return plain(value)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_ends_as_with_cwltool(document, tmp_path):
    job = job_of(document)
    expected = forked(lambda _: by_cwltool(document, job, tmp_path), DEADLINE_S)
    found = forked(lambda _: by_drawbar(document, job, tmp_path / "workspace"), DEADLINE_S)
    if expected is None:
        assert isinstance(found, str), f"cwltool fails here: {found}"
    else:
        assert found == expected
