"""Snakemake's own test cases, run through `snakemake` and through `drawbar-snakemake`.

    python tests/upstream/snakemake_cases.py [--plain] [--parallel 2] [CASE...]

The cases are in Snakemake's source distribution, which is taken from the package index and kept in
`build/`. A case is a call of `run(...)` in its `tests.py` that can be said as one command line, without
conda, containers, network, a cluster or storage. What a case expects is judged as Snakemake does it: by
success or failure, and by the files in `expected-results`.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PLAIN_RECORD = Path(__file__).with_name("snakemake_plain.json")
"""How plain snakemake does with each case, where it was run last; written by `--plain --record`."""
LIMIT_S = 240.0

_LEFT_OUT_DECORATORS = frozenset(
    {"apptainer", "connected", "conda", "zenodo", "gcloud", "only_on_windows", "needs_strace", "azbatch"}
)
_SAID_BY = {
    "targets": "",
    "until": "--until",
    "omit_from": "--omit-from",
    "forcerun": "--forcerun",
    "configfiles": "--configfile",
    "default_resources": "--default-resources",
    "envvars": "--envvars",
}
_PAIRS = {
    "config": "--config",
    "resources": "--resources",
    "group_components": "--group-components",
    "overwrite_groups": "--groups",
    "overwrite_scatter": "--set-scatter",
    "overwrite_resource_scopes": "--set-resource-scopes",
}
_FLAGS = {"forceall": "--forceall", "all_temp": "--all-temp", "printshellcmds": "--printshellcmds"}
_NUMBERS = {"cores": "--cores", "retries": "--retries", "max_threads": "--max-threads"}
_WITHOUT_MEANING = frozenset(
    {"shouldfail", "snakefile", "check_md5", "check_results", "cleanup", "set_pythonpath", "force_incomplete"}
    | {"nodes", "debug_dag", "cluster"}
)
_NO_RUN = re.compile(
    r"(^|\s)(-n|--dry-?run|--report\S*|--lint|--\S*dag|--rulegraph|--summary|--list\S*|--unlock|--profile\S*"
    r"|--workflow-profile|--executor|--cluster\S*|--use-conda|--sdm|--software\S*|--\S*storage\S*|-e"
    r"|--archive|--touch|-t|--delete\S*|--cleanup\S*|--generate\S*|--logger\S*|--mode|--notebook\S*"
    r"|--edit-notebook|--draft-notebook|--export\S*|--containerize|--batch|--version|--help|-h|--shared-fs\S*"
    r"|--print-compilation|--runtime-profile|--persistence\S*)(=|\s|$)"
)


EXCEPTIONS = {
    "test_default_resources_mebibytes": "a group runs as a Snakemake of its own, to which Snakemake says "
    "mem_mb=953.67 for the default mem_mib=953.67; so it is with every remote executor",
    "test_groupid_expand_local": "expects that groups are ignored, as Snakemake does without a cluster; "
    "with drawbar they are groups (test_groupid_expand_cluster is the same with groups)",
}
"""Cases that plain snakemake passes and drawbar does not, and why."""
NOT_HERE = {
    "needs pandas": (
        "test_ioutils",
        "test_params_pickling",
        "test_validate",
        "test_issue2685",
        "test_paramspace",
        "test_paramspace_single_wildcard",
    ),
    "needs peppy": ("test_modules_peppy", "test_peppy", "test_pep_pathlib"),
    "needs the storage plugin for HTTP, and the network": (
        "test_ancient",
        "test_modules_prefix",
        "test_module_onstart_onsuccess",
        "test_module_onerror",
    ),
    "needs the network": ("test_python_import_from_github_module",),
    "needs a variable that the test function sets": ("test_envvars-2",),
}
"""Why neither passes some where nothing but drawbar's own extras is installed."""


@dataclass(frozen=True, slots=True)
class Case:
    """One call of `run` in Snakemake's tests."""

    name: str
    directory: str
    arguments: tuple[str, ...] = ()
    should_fail: bool = False
    check_results: bool = True
    check_content: bool = True
    cluster: bool = False
    """Meant for a cluster: plain snakemake has no place to run it."""


@dataclass(slots=True)
class Verdict:
    """How a case went: "pass", or why not."""

    passed: bool
    why: str = ""
    seconds: float = 0.0
    output: str = field(default="", repr=False)


def sources() -> Path:
    """Snakemake's source tree, of the version that is installed here."""
    wanted = version("snakemake")
    place = ROOT / "build" / "snakemake-sdist"
    tree = place / f"snakemake-{wanted}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.is_dir():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            subprocess.run(
                [*pip, "--dest", str(place), f"snakemake=={wanted}"], check=True, stderr=subprocess.DEVNULL
            )
            with (
                tempfile.TemporaryDirectory(dir=place) as temporary,
                tarfile.open(place / f"{tree.name}.tar.gz") as packed,
            ):
                packed.extractall(temporary, filter="tar")
                Path(temporary, tree.name).rename(tree)
    return tree


def cases(tree: Path) -> dict[str, Case]:
    """Every portable case, by the name of its test function (and a number, where that has several)."""
    module = ast.parse((tree / "tests" / "tests.py").read_text())
    found: dict[str, Case] = {}
    for function in module.body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test"):
            decorators = {
                node.id
                for each in function.decorator_list
                for node in ast.walk(each)
                if isinstance(node, ast.Name)
            }
            if decorators & _LEFT_OUT_DECORATORS:
                continue
            calls = [
                node
                for node in ast.walk(function)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run"
            ]
            for number, call in enumerate(calls):
                name = function.name if len(calls) == 1 else f"{function.name}-{number + 1}"
                case = _case(name, call)
                if case is not None and (tree / "tests" / case.directory).is_dir():
                    found[name] = case
    return found


def _case(name: str, call: ast.Call) -> Case | None:
    """The case that a call is; None when it cannot be said as one command line."""
    directory = call.args[0] if call.args else None
    if not (
        isinstance(directory, ast.Call)
        and isinstance(directory.func, ast.Name)
        and directory.func.id == "dpath"
        and isinstance(directory.args[0], ast.Constant)
    ):
        return None
    given: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg == "shouldfail" and not isinstance(keyword.value, ast.Constant):
            given["shouldfail"] = True
            continue
        try:
            given[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            return None
    if len(call.args) > 1:
        return None
    arguments = _command_line(given)
    if arguments is None:
        return None
    fails = bool(given.get("shouldfail", False))
    return Case(
        name=name,
        directory=directory.args[0].value,
        arguments=tuple(arguments),
        should_fail=fails,
        check_results=given.get("check_results", not fails),
        check_content=given.get("check_md5", True),
        cluster="cluster" in given,
    )


def _command_line(given: Mapping[str, Any]) -> list[str] | None:
    if "shellcmd" in given:
        text = given["shellcmd"]
        others = set(given) - _WITHOUT_MEANING - {"shellcmd"}
        if others or _NO_RUN.search(text) or any(each in text for each in "|;&$`"):
            return None
        return shlex.split(text)[1:]
    arguments = ["--cores", str(given.get("cores", 3)), "--latency-wait", "3"]
    if "snakefile" in given:
        arguments += ["-s", given["snakefile"]]
    targets: list[str] = []
    for name, value in given.items():
        if name == "targets":
            targets = sorted(value) if isinstance(value, set) else list(value)
        elif name in _SAID_BY:
            values = sorted(value) if isinstance(value, set | frozenset) else [str(each) for each in value]
            arguments += [_SAID_BY[name], *values] if values else []
        elif name in _PAIRS:
            values = [f"{key}={_text(each)}" for key, each in value.items()]
            arguments += [_PAIRS[name], *values] if values else []
        elif name == "overwrite_resources":
            values = [f"{rule}:{key}={each}" for rule, keys in value.items() for key, each in keys.items()]
            arguments += ["--set-resources", *values]
        elif name in _FLAGS:
            arguments += [_FLAGS[name]] if value else []
        elif name in _NUMBERS:
            arguments += [_NUMBERS[name], str(value)] if name != "cores" else []
        elif name == "cleanup_scripts":
            arguments += [] if value else ["--skip-script-cleanup"]
        elif name not in _WITHOUT_MEANING:
            return None
    return [*arguments, "--", *targets] if targets else arguments


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def judge(case: Case, tree: Path, program: list[str]) -> Verdict:
    """Run a case in a copy of its directory, and compare."""
    source = tree / "tests" / case.directory
    with tempfile.TemporaryDirectory(prefix=f"case-{case.name}-", ignore_cleanup_errors=True) as temporary:
        place = Path(temporary, "case")
        shutil.copytree(source, place, symlinks=False)
        began = time.monotonic()
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                [*program, *case.arguments],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            )
            try:
                code: int | None = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            seconds = time.monotonic() - began
            printed.seek(0)
            output = printed.read().decode(errors="replace")
        why = _compare(case, source / "expected-results", place, code)
        subprocess.run(["chmod", "-R", "u+w", temporary], check=False, stderr=subprocess.DEVNULL)
    return Verdict(not why, why, seconds, output)


def _compare(case: Case, expected: Path, place: Path, code: int | None) -> str:
    if code is None:
        return f"did not end within {LIMIT_S:.0f} s"
    if case.should_fail != (code != 0):
        return "should have failed" if case.should_fail else f"exit status {code}"
    if not case.check_results:
        return ""
    for file in sorted(_visible(expected)):
        name = file.relative_to(expected)
        if name.name in (".gitignore", ".gitkeep") or name.name.endswith("_WIN"):
            continue
        if not (place / name).exists():
            return f"did not make {name}"
        if case.check_content and _digest(place / name) != _digest(file):
            return f"another content of {name}"
    return ""


def _visible(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts):
            yield path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().strip()).hexdigest()


def table(record: Mapping[str, Mapping[str, Any]], known: Mapping[str, Case]) -> str:
    """The verdicts of both as a page of documentation."""

    def passes(name: str, label: str) -> bool:
        return label in record.get(name, {}) and not record[name][label]["why"]

    def said(name: str, label: str) -> str:
        verdict = record.get(name, {}).get(label)
        return "not run" if verdict is None else verdict["why"] or "pass"

    shared = [name for name, case in known.items() if not case.cluster]
    cluster = [name for name, case in known.items() if case.cluster]
    plain = [name for name in shared if passes(name, "plain")]
    both = [name for name in plain if passes(name, "drawbar")]
    groups = sum(passes(name, "drawbar") for name in cluster)
    lines = [
        "# Snakemake's own test cases",
        "",
        f"The portable cases among the tests of Snakemake {version('snakemake')}: those that can be said as",
        "one command line, without conda, containers, network, report or storage. Written by",
        "`python tests/upstream/snakemake_cases.py --json build/cases.json --table "
        "docs/results/snakemake-cases.md`;",
        "plain snakemake's verdicts are those of `tests/upstream/snakemake_plain.json`.",
        "",
        f"- `snakemake` passes {len(plain)} of {len(shared)} on the machine of this table;",
        f"- of these, `drawbar-snakemake` passes {len(both)};",
        f"- of {len(cluster)} more that need a cluster, `drawbar-snakemake` passes {groups}.",
        "",
        "| case that drawbar does not pass | snakemake | drawbar | reason |",
        "|---|---|---|---|",
    ]
    for name in known:
        if not passes(name, "drawbar"):
            missing = (f"{why}, with plain snakemake too" for why, names in NOT_HERE.items() if name in names)
            reason = EXCEPTIONS.get(name) or next(missing, "")
            mine = "needs a cluster" if known[name].cluster else said(name, "plain")
            lines.append(f"| `{name}` | {mine} | {said(name, 'drawbar')} | {reason} |")
    lines += ["", "## All cases", "", "| case | snakemake | drawbar |", "|---|---|---|"]
    for name in sorted(known):
        mine = "needs a cluster" if known[name].cluster else said(name, "plain")
        lines.append(f"| `{name}` | {mine} | {said(name, 'drawbar')} |")
    return "\n".join(lines) + "\n"


def plain_record() -> dict[str, Any]:
    """The version of Snakemake, and for each case how it does: an empty text for a pass, or why not."""
    record: dict[str, Any] = json.loads(PLAIN_RECORD.read_text())
    return record


def write_record(verdicts: Mapping[str, str]) -> None:
    """Keep these verdicts, of the version that is installed here."""
    record = {"snakemake": version("snakemake"), "verdicts": verdicts}
    PLAIN_RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _clusters(known: Mapping[str, Case]) -> dict[str, str]:
    return {name: "needs a cluster" for name, case in known.items() if case.cluster}


PLAIN = [sys.executable, "-m", "snakemake"]
DRAWBAR = [sys.executable, "-m", "drawbar_snakemake.command"]


def main() -> int:
    """Run cases and print a line for each; the exit status is 1 when one differs from plain snakemake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CASE")
    parser.add_argument("--plain", action="store_true", help="only through snakemake")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument(
        "--record", action="store_true", help="keep plain snakemake's verdicts in the repository"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the verdicts to this file")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the verdicts in --json as a page")
    parser.add_argument("--none", action="store_true", help="run nothing, only write the table")
    parser.add_argument("--output", action="store_true", help="show what failed cases print")
    asked = parser.parse_args()
    tree = sources()
    known = cases(tree)
    names = [] if asked.none else asked.names or list(known)
    programs = {"plain": PLAIN} if asked.plain else {"drawbar": DRAWBAR}
    record: dict[str, Any] = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(asked.parallel) as pool:
        futures = {
            pool.submit(judge, known[name], tree, program): (name, label)
            for name in names
            for label, program in programs.items()
            if not (known[name].cluster and label == "plain")
        }
        for future in concurrent.futures.as_completed(futures):
            name, label = futures[future]
            verdict = future.result()
            failed += not verdict.passed
            record.setdefault(name, {})[label] = {"why": verdict.why, "seconds": round(verdict.seconds, 1)}
            print(f"{label:8} {name:50} {verdict.seconds:6.1f} s  {verdict.why or 'pass'}", flush=True)
            if asked.output and not verdict.passed:
                print(verdict.output)
            if asked.json:
                asked.json.write_text(json.dumps(record, indent=1, sort_keys=True))
    if asked.plain and asked.record:
        verdicts = {name: record[name]["plain"]["why"] for name in record if "plain" in record[name]}
        write_record({**plain_record()["verdicts"], **verdicts, **_clusters(known)})
    if asked.table:
        for name, why in plain_record()["verdicts"].items():
            record.setdefault(name, {})["plain"] = {"why": why}
        asked.table.parent.mkdir(exist_ok=True)
        asked.table.write_text(table(record, known))
    print(f"{len(futures) - failed} of {len(futures)} pass")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
