"""The documents of cwltool's own tests, which its distribution carries: equal outputs and verdicts.

Each is run by cwltool and by drawbar's engine, without containers, with the input object that lies beside it
if there is one.
"""

import sys
from pathlib import Path

import pytest
from drawbar.engine import Source, StepFailed
from drawbar.errors import SpecError
from drawbar.testing.child import forked
from drawbar.testing.memory import MemoryJobs

sys.path.insert(0, str(Path(__file__).parent))

from cwltool_documents import DOCUMENTS, FOLDER, by_cwltool, job_of, plain, warm

pytestmark = pytest.mark.slow

DEADLINE_S = 120


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


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_ends_as_with_cwltool(document, tmp_path):
    job = job_of(document)
    expected = forked(lambda _: by_cwltool(document, job, tmp_path, "--no-container"), DEADLINE_S)
    found = forked(lambda _: by_drawbar(document, job, tmp_path / "workspace"), DEADLINE_S)
    if expected is None:
        assert isinstance(found, str), f"cwltool fails here: {found}"
    else:
        assert found == expected
