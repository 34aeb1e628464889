"""What a rule runs that is not a shell command: its code, script, notebook or wrapper."""

from __future__ import annotations

import re
from types import CodeType, FunctionType
from typing import Any

from drawbar.identity import digest
from snakemake.exceptions import WorkflowError
from snakemake.sourcecache import SourceFile
from snakemake.wrapper import find_extension, get_path

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def program(job: Any) -> str:
    """A text that changes when what the job's rule runs does."""
    rule = job.rule
    for name in ("script", "notebook", "wrapper", "cwl", "template_engine"):
        file = getattr(rule, name, None)
        if file:
            return f"{name} {file} {_content(job, file)}"
    if rule.shellcmd is not None:
        return f"shell {rule.shellcmd}"
    return digest(["run", rule.run_func_src, _helpers(rule.run_func)])


def described(value: Any) -> str:
    """A parameter as text, the same in every process."""
    if isinstance(value, dict):
        return digest({str(name): described(each) for name, each in value.items()})
    if isinstance(value, set | frozenset):
        return digest(["set", *sorted(described(each) for each in value)])
    if isinstance(value, list | tuple):
        return digest([described(each) for each in value])
    return _ADDRESS.sub("", repr(value))


def _content(job: Any, file: str) -> str:
    """The digest of a script's content, as all jobs of this start see it.

    Of one that cannot be read here only the name counts, and so of a wrapper that is elsewhere: its name
    has its version.
    """
    workflow = job.dag.workflow
    try:
        path = job._path_to_source_file(file)
        if job.rule.is_wrapper:
            path = get_path(file, prefix=workflow.workflow_settings.wrapper_prefix)
            path = find_extension(path, workflow.sourcecache) if path.is_local else None
        if not isinstance(path, SourceFile):
            return ""
        with workflow.sourcecache.open(path, "rb") as source:
            return digest(source.read().decode(errors="surrogateescape"))
    except (OSError, WorkflowError):
        return ""


def _helpers(function: FunctionType) -> list[Any]:
    """What a function uses of its Snakefile: functions, with what they use, and plain values."""
    found: dict[str, Any] = {}
    pending = [function.__code__]
    while pending:
        code = pending.pop()
        pending += [each for each in code.co_consts if isinstance(each, CodeType)]
        for name in code.co_names:
            value = function.__globals__.get(name)
            if name in found or value is None:
                continue
            if isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
                found[name] = _code(value.__code__)
                pending.append(value.__code__)
            elif isinstance(value, str | int | float | bool | list | tuple | dict | set | frozenset):
                found[name] = described(value)
    return sorted(found.items())


def _code(code: CodeType) -> list[Any]:
    """A function's code, without the place where it stands."""
    constants = [_code(each) if isinstance(each, CodeType) else described(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]
