"""What a Snakefile says before anything runs: its rules, what they read and write, and where they run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawbar.engine import Source, StepInfo, WorkflowInfo
from drawbar.model import Resources
from snakemake.parser import parse
from snakemake.sourcecache import infer_source_file

from drawbar_snakemake import conda
from drawbar_snakemake.log import RunLog
from drawbar_snakemake.session import opened, snakefile_of, untouched
from drawbar_snakemake.specs import image_of, is_direct, library_of, needs_of

if TYPE_CHECKING:
    from drawbar_snakemake.engine import SnakemakeOptions

_MOST_NAMED = 100
"""So many files of a rule are named; a rule may have a million."""


def inspect(source: Source, options: SnakemakeOptions, workdir: Path) -> WorkflowInfo:
    """The rules that have jobs, in the order of the Snakefile."""
    log = RunLog(lambda *_: None)
    with opened(source, options, log, workdir=workdir) as session:
        dag = session.determine()
        conda.check(dag.jobs, session.workflow)
        jobs: dict[str, list[Any]] = defaultdict(list)
        for job in dag.jobs:
            jobs[job.rule.name].append(job)
        rules = [rule for rule in session.workflow.rules if rule.name in jobs and not rule.norun]
        steps = tuple(_step(rule, jobs[rule.name], session.workflow, options) for rule in rules)
        made = {str(path) for job in dag.jobs for path in job.output}
        return WorkflowInfo(
            steps=steps,
            parameters=tuple(source.parameters),
            outputs=tuple(sorted(str(path) for path in dag.targetfiles if str(path) in made)),
            files=tuple(_files(session.workflow, source.root)),
        )


def check_syntax(source: Source, options: SnakemakeOptions, workdir: Path) -> WorkflowInfo:
    """Have Snakemake translate the Snakefile and Python read the translation; nothing is executed."""
    with untouched(source, options, RunLog(lambda *_: None), workdir=workdir) as workflow:
        file = str(snakefile_of(source))
        linemap: dict[int, int] = {}
        workflow.linemaps[file] = linemap
        code, _ = parse(infer_source_file(file), workflow, linemap)
        compile(code, file, "exec")
    warning = "nothing of the Snakefile was executed: its rules are not known"
    return WorkflowInfo(parameters=tuple(source.parameters), warnings=(warning,))


def _step(rule: Any, jobs: list[Any], workflow: Any, options: SnakemakeOptions) -> StepInfo:
    first, dag = jobs[0], workflow.dag
    try:
        resources, hints = needs_of(first.resources, first.threads)
    except Exception:  # a function that needs the rule's input, which is not there yet
        resources, hints = Resources(), {}
    direct = first.group is None and is_direct(first, workflow)
    image = image_of(first.container_img_url, options, direct=direct)
    return StepInfo(
        name=rule.name,
        image=image or options.image,
        image_required=image is not None,
        library=None if direct else library_of(options),
        commands=(rule.shellcmd.strip(),) if rule.shellcmd else (),
        depends_on=tuple(
            dict.fromkeys(
                each.rule.name
                for job in jobs
                for each in dag.dependencies[job]
                if each.rule is not rule and not each.rule.norun
            )
        ),
        inputs=_some(str(path) for job in jobs for path in job.input),
        outputs=_some(str(path) for job in jobs for path in job.output),
        resources=replace(resources, cpus=1, gpus=0),  # more where there is more, see `Specs`
        hints=hints,
        jobs=0 if first.is_local else None if any(dag.checkpoint_jobs) else len(jobs),
        line=rule.lineno,
    )


def _some(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(dict.fromkeys(paths), _MOST_NAMED))


def _files(workflow: Any, root: Path) -> Iterator[str]:
    """The Snakefiles of the analysis that were read."""
    for file in workflow.included:
        path = os.path.relpath(file.get_path_or_uri(secret_free=True), root)
        if not path.startswith(".."):
            yield path
