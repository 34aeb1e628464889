"""What `drawbar backends check` says of schedds that a test pool cannot be: bindings stand in for them."""

from __future__ import annotations

import pytest
from drawbar_htcondor.backend import HTCondorBackend

BINDINGS = """
class DaemonType:
    Schedd = 1

class QueryOpts:
    DefaultMyJobsOnly = IncludeClusterAd = 0

class Collector:
    def locate(self, kind, name):
        return {{"MyAddress": "<127.0.0.1:1>"}}

class Schedd:
    def __init__(self, place): pass
    def query(self, **wanted): return []

param = {{}}

def ping(place, level):
    if level == "WRITE" and not {allowed}:
        raise RuntimeError("Failed to start command.")
    return {{"RemoteVersion": "$CondorVersion: {version} 2024-01-01 $", "MyRemoteUserName": "ada@pool"}}
"""


@pytest.mark.parametrize(
    ("version", "allowed", "words"),
    [
        ("9.12.0", True, "the schedd has CondorVersion: 9.12.0; drawbar needs version 10 or newer"),
        ("25.1.0", False, "takes this user for ada@pool, who may not submit"),
        ("10.0.1", True, None),
    ],
)
def test_what_a_schedd_is(tmp_path, monkeypatch, version, allowed, words):
    (tmp_path / "htcondor2.py").write_text(BINDINGS.format(version=version, allowed=allowed))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    backend = HTCondorBackend(HTCondorBackend.Options())
    problems = [problem.message for problem in backend.check_client()]
    assert len(problems) == (words is not None)
    assert all(words in problem for problem in problems)
