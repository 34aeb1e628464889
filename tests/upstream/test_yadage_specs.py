"""The test specifications of yadage itself: every step publishes what it publishes with stock yadage.

Images are replaced by plain processes on both sides; `tests/compute/docker` has those that need images, in
containers.
"""

import sys
from pathlib import Path

import pytest
from drawbar.engine import Source
from drawbar.testing.memory import MemoryJobs
from drawbar_yadage.engine import YadageEngine

sys.path.insert(0, str(Path(__file__).parent))

from yadage_specs import CASES, Case, options, ordered, prepare, published, specifications, stock

pytestmark = pytest.mark.slow


def ours(case: Case, place: Path) -> dict:
    spec, parameters = prepare(case, specifications(), place)
    source = Source(
        root=spec,
        document=spec / case.toplevel / case.file,
        file=spec / case.file,
        parameters=parameters,
        options=options(case),
    )
    jobs = MemoryJobs(spec)
    YadageEngine().execute(source, jobs)
    jobs.finish()
    return published(spec)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_specification_publishes_what_it_does_with_stock_yadage(case: Case, tmp_path: Path) -> None:
    found = ours(case, tmp_path / "ours")
    expected = case.expected or stock(case, specifications(), tmp_path / "stock")
    assert None not in expected.values(), "stock yadage failed"
    assert ordered(found) == ordered(expected)
