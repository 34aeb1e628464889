"""A sample of Snakemake's own test cases: another one every day, the same all day."""

from __future__ import annotations

import datetime
import importlib.util
import random
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "snakemake_cases", Path(__file__).parent / "snakemake_cases.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
snakemake_cases = importlib.util.module_from_spec(_SPEC)
sys.modules["snakemake_cases"] = snakemake_cases
_SPEC.loader.exec_module(snakemake_cases)

SAMPLE = 8


@pytest.mark.slow
def test_a_sample_of_cases_goes_as_with_plain_snakemake():
    tree = snakemake_cases.sources()
    known = snakemake_cases.cases(tree)
    assert len(known) > 230
    usable = [name for name in known if name not in snakemake_cases.EXCEPTIONS]
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    wrong = {}
    for name in random.Random(day).sample(usable, SAMPLE):
        verdict = snakemake_cases.judge(known[name], tree, snakemake_cases.DRAWBAR)
        if not verdict.passed and not known[name].cluster:
            plain = snakemake_cases.judge(known[name], tree, snakemake_cases.PLAIN)
            if plain.passed:
                wrong[name] = f"{verdict.why}\n{verdict.output}"
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
