"""The Snakemake engine passes the conformance kit."""

from dataclasses import replace

import pytest
from drawbar.testing.engine import EngineContract, Sample
from drawbar_snakemake.engine import SnakemakeEngine

TWO_RULES = """\
rule twice:
    input:
        "reversed"
    output:
        "twice"
    shell:
        "cat {input} {input} > {output}"

rule reverse:
    input:
        "word"
    output:
        "reversed"
    shell:
        "rev {input} > {output}"
"""
TWO_STEPS = Sample(
    files={"Snakefile": TWO_RULES, "word": "abc\n"},
    file="Snakefile",
    declared=("word",),
    outputs={"twice": "cba\ncba\n"},
)


def snakefile(text: str, **arguments: object) -> Sample:
    return Sample(files={"Snakefile": text}, file="Snakefile", **arguments)


class TestSnakemake(EngineContract):
    engine_libraries = ("snakemake", "snakemake_interface_executor_plugins")

    # Many processes, each of which imports Snakemake.

    @pytest.mark.slow
    def test_identities_and_keys_do_not_depend_on_the_hash_seed(self, samples, engine, tmp_path):
        super().test_identities_and_keys_do_not_depend_on_the_hash_seed(samples, engine, tmp_path)

    @pytest.mark.slow
    def test_replay_after_a_kill_runs_only_the_rest(self, samples, engine, tmp_path):
        super().test_replay_after_a_kill_runs_only_the_rest(samples, engine, tmp_path)

    @pytest.fixture
    def engine(self):
        SnakemakeEngine.preload()  # once, and not in each of the kit's child processes
        return SnakemakeEngine()

    @pytest.fixture
    def two_steps(self):
        return TWO_STEPS

    @pytest.fixture
    def edits(self):
        def edited(outputs, **files):
            return replace(TWO_STEPS, files={**TWO_STEPS.files, **files}, outputs={"twice": outputs})

        return {
            "command": edited("abc\nabc\n", Snakefile=TWO_RULES.replace("rev {input}", "cat {input}")),
            "input": edited("wen\nwen\n", word="new\n"),
        }

    @pytest.fixture
    def failing(self):
        return snakefile(
            """\
rule c:
    input: "b"
    output: "c"
    shell: "touch c"
rule b:
    input: "a"
    output: "b"
    shell: "exit 3"
rule a:
    output: "a"
    shell: "touch a"
""",
            step="b",
        )

    @pytest.fixture
    def broken(self):
        return snakefile(
            'rule a:\n    input: "b"\n    output: "a"\n    shell: "touch a"\n',
            problem="Missing input",
            line=1,
        )

    @pytest.fixture
    def scattered(self):
        return snakefile(
            """\
rule gather:
    input: expand("part/{n}", n=range(3))
    output: "all"
    shell: "cat {input} > {output}"
rule part:
    output: temp("part/{n}")
    shell: "echo {wildcards.n} > {output}"
""",
            outputs={"all": "0\n1\n2\n"},
        )

    @pytest.fixture
    def incomplete(self):
        return snakefile(
            'rule a:\n    output: "a"\n    shell: "true"\n',
            step="a",
            options={"arguments": "--latency-wait 0"},
        )

    @pytest.fixture
    def hostile(self):
        return snakefile('open("made", "w").close()\nrule a:\n    output: "a"\n    shell: "touch a"\n')
