"""drawbar's conformance kit, applied to this engine."""

from dataclasses import replace

import pytest
from drawbar.testing.engine import EngineContract, Sample
from drawbar_recipes import RecipesEngine

CHAIN = """\
squares.txt: numbers.txt
    awk '{ print $1 * $1 }' numbers.txt > squares.txt
sum.txt: squares.txt
    awk '{ sum += $1 } END { print sum }' squares.txt > sum.txt
"""
TWO_STEPS = Sample(
    files={"a.recipes": CHAIN, "numbers.txt": "1\n2\n3\n"}, file="a.recipes", outputs={"sum.txt": "14\n"}
)
FAN = "\n".join(f"part{n}: numbers.txt\n    grep {n} numbers.txt > part{n}" for n in (1, 2, 3))


class TestRecipes(EngineContract):
    @pytest.fixture
    def engine(self):
        return RecipesEngine()

    @pytest.fixture
    def two_steps(self):
        return TWO_STEPS

    @pytest.fixture
    def edits(self):
        cubes = CHAIN.replace("$1 * $1 }", "$1 * $1 * $1 }")
        return {
            "command": replace(
                TWO_STEPS, files={**TWO_STEPS.files, "a.recipes": cubes}, outputs={"sum.txt": "36\n"}
            ),
            "input": replace(
                TWO_STEPS, files={**TWO_STEPS.files, "numbers.txt": "4\n"}, outputs={"sum.txt": "16\n"}
            ),
        }

    @pytest.fixture
    def scattered(self):
        recipes = f"{FAN}\nall: part1 part2 part3\n    cat part1 part2 part3 > all\n"
        return replace(
            TWO_STEPS, files={**TWO_STEPS.files, "a.recipes": recipes}, outputs={"all": "1\n2\n3\n"}
        )

    @pytest.fixture
    def failing(self):
        recipes = "a:\n    touch a\nb: a\n    exit 3\nc: b\n    touch c\n"
        return Sample(files={"a.recipes": recipes}, file="a.recipes", step="b")

    @pytest.fixture
    def incomplete(self):
        return Sample(files={"a.recipes": "a:\n    true\n"}, file="a.recipes", step="a")

    @pytest.fixture
    def broken(self):
        return Sample(
            files={"a.recipes": "a:\n    touch a\nb: c\n    touch b\n"},
            file="a.recipes",
            problem="no recipe makes 'c'",
            line=3,
        )
