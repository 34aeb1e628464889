"""The serial engine passes the conformance kit."""

from dataclasses import replace

import pytest
from drawbar.testing.engine import EngineContract, Sample
from drawbar_serial.engine import SerialEngine

STEPS = """\
steps:
  - name: upper
    environment: python:3.12
    commands:
      - tr a-z A-Z < word > upper
  - name: reverse
    environment: python:3.12
    commands:
      - rev upper > reversed
      - cat reversed reversed > twice
"""
TWO_STEPS = Sample(
    files={"flow.yaml": STEPS, "word": "abc\n"},
    file="flow.yaml",
    declared=("word",),
    outputs={"twice": "CBA\nCBA\n"},
)


class TestSerial(EngineContract):
    engine_libraries = ("reana_commons", "jsonschema")

    @pytest.fixture
    def engine(self):
        return SerialEngine()

    @pytest.fixture
    def two_steps(self):
        return TWO_STEPS

    @pytest.fixture
    def edits(self):
        def edited(outputs, **files):
            return replace(TWO_STEPS, files={**TWO_STEPS.files, **files}, outputs={"twice": outputs})

        return {
            "command": edited("ABC\nABC\n", **{"flow.yaml": STEPS.replace("rev upper", "cat upper")}),
            "input": edited("WEN\nWEN\n", word="new\n"),
            "environment": edited(
                "CBA\nCBA\n", **{"flow.yaml": STEPS.replace("python:3.12", "python:3.13", 1)}
            ),
        }

    @pytest.fixture
    def failing(self):
        steps = [
            {"name": "a", "environment": "i", "commands": ["touch a"]},
            {"name": "b", "environment": "i", "commands": ["exit 3"]},
            {"name": "c", "environment": "i", "commands": ["touch c"]},
        ]
        return Sample(files={}, specification={"steps": steps}, step="b")

    @pytest.fixture
    def broken(self):
        return Sample(
            files={"flow.yaml": STEPS.replace("rev upper", "rev $upper")},
            file="flow.yaml",
            problem="column 5: there is no parameter 'upper'",
            line=9,
        )
