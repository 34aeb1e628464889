"""The command test: the tests that an analysis declares for its results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from drawbar import report
from drawbar.checks.run import evidence_of
from drawbar.cli.common import App, json_option, print_json
from drawbar.cli.failures import say
from drawbar.creation import analysis_of
from drawbar.gherkin import Outcome, ScenarioResult, evaluate, load_features
from drawbar.home import RunDirectory
from drawbar.plugins import Plugins


@click.command()
@click.argument("run")
@json_option
@click.pass_obj
def test(app: App, run: str, as_json: bool) -> None:
    """Evaluate the tests that the analysis of a run declares (tests.files).

    The exit status is 1 when one fails; a scenario whose condition does not hold is skipped.

    \b
    Example:
      drawbar test dimuon
    """
    results = evaluate_tests(app.find(run), app.plugins)
    if as_json:
        print_json([_document(result) for result in results])
    else:
        for line in _lines(results):
            click.echo(report.legible(line))
    click.get_current_context().exit(int(failed(results)))


def evaluate_tests(directory: RunDirectory, plugins: Plugins) -> list[ScenarioResult]:
    """What came of the tests of a run's analysis as it was when it ran."""
    analysis = analysis_of(directory, engines=plugins.engines, as_was=True)
    features = load_features([directory.definition / file for file in analysis.test_files])
    return evaluate(features, evidence_of(directory, analysis))


def show_tests(results: Sequence[ScenarioResult]) -> None:
    """Say on standard error what came of tests."""
    for line in _lines(results):
        say(line)


def failed(results: Sequence[ScenarioResult]) -> bool:
    """Whether any test failed."""
    return any(result.outcome is Outcome.FAILED for result in results)


def _lines(results: Sequence[ScenarioResult]) -> list[str]:
    lines = []
    for result in results:
        lines.append(f"{result.outcome:<8}{result.feature}: {result.scenario}")
        if result.message:
            place = f"{os.path.basename(result.file)}:{result.line}"  # noqa: PTH119 (a text)
            lines.append(f"        {place}: {result.message}")
    counts = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
    lines.append(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no tests")
    return lines


def _document(result: ScenarioResult) -> dict[str, Any]:
    return {
        "feature": result.feature,
        "scenario": result.scenario,
        "outcome": result.outcome,
        "message": result.message,
        "file": os.path.basename(result.file),  # noqa: PTH119 (a text)
        "line": result.line,
        "duration_s": result.duration_s,
    }
