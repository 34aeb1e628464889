"""How errors are told, the unexpected ones too."""

import re
from pathlib import Path

import pytest
from drawbar.cli.failures import explain
from drawbar.errors import (
    BackendError,
    EngineDied,
    InfrastructureError,
    LeaseError,
    PluginError,
    Problem,
    RunFailed,
    SettingsError,
    Severity,
    SpecError,
    StoreError,
    Unsupported,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunFailed("x"), 1),
        (SpecError("x"), 2),
        (UsageError("x"), 2),
        (SettingsError("x"), 2),
        (Unsupported("x"), 2),
        (PluginError("x"), 2),
        (InfrastructureError("x"), 3),
        (BackendError("x"), 3),
        (StoreError("x"), 3),
        (LeaseError("x"), 3),
        (EngineDied("x"), 3),
        (PermissionError(13, "x"), 3),
    ],
)
def test_every_kind_of_error_has_its_status(error, status, capsys):
    assert explain(error) == status
    out, err = capsys.readouterr()
    assert (out, err) == ("", "drawbar: error: x\n")


def test_every_problem_is_told_with_place_and_remedy(capsys):
    problems = [
        Problem(message="odd", severity=Severity.WARNING),
        Problem(message="wrong", file="reana.yaml", line=3, hint="write it so"),
        Problem(message="bad", step="fit"),
    ]
    explain(SpecError(problems))
    assert capsys.readouterr().err.splitlines() == [
        "drawbar: error: reana.yaml:3: wrong (write it so)",
        "drawbar: error: step fit: bad",
        "drawbar: warning: odd",
    ]


def test_what_should_not_happen_leaves_its_stack_trace_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError) as caught:
        {}["missing"]
    assert explain(caught.value) == 3
    err = capsys.readouterr().err
    assert "KeyError: 'missing'" in err
    assert "Traceback" not in err
    (path,) = re.findall(r"stack trace is in (\S+);", err)
    assert "Traceback" in Path(path).read_text()
