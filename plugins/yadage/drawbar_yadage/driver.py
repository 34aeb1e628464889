"""Drives a yadage workflow by events.

Yadage's own objects hold the workflow: rules that add nodes, nodes with tasks, scopes. What follows
from the end of a job is looked up, and nothing is polled: a node counts its unfinished predecessors,
a rule the nodes and rules that it waits for.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drawbar.engine import Executed, JobClient, Lookup, StepFailed
from drawbar.model import JobResult, JobSpec

from drawbar_yadage import library, report
from drawbar_yadage.jobs import JobMaker, needs_a_person, runs_a_command
from drawbar_yadage.overview import SIMPLE_PATH, needed
from drawbar_yadage.places import decode, encode
from drawbar_yadage.publishing import PublishError, expected, publish
from drawbar_yadage.states import Provider
from drawbar_yadage.values import Values

_PART = re.compile(r"([^.\[]+)(?:\[(\*|\d+)\])?")

Key = tuple[str, str]
"""Something that a rule waits for: ("node", identifier) or ("rule", identifier)."""
_NEVER: Key = ("never", "")


class Driver:
    """One execution of a workflow. `specification` is complete and checked, `parameters` its initial data."""

    def __init__(
        self,
        specification: Mapping[str, Any],
        parameters: Mapping[str, Any],
        provider: Provider,
        maker: JobMaker,
        jobs: JobClient,
    ) -> None:
        library.load()
        from yadage.wflow import YadageWorkflow

        self.jobs = jobs
        self.workflow = YadageWorkflow.createFromJSON(specification, provider)
        self._maker = maker
        self._seen = 0
        self._rules: dict[tuple[str, str], list[Any]] = {}
        self._applied: set[str] = set()
        self._to_test: deque[Any] = deque()
        self._waits: dict[str, int] = {}
        self._waiting: dict[Key, list[Any]] = {}
        self._restless: dict[str, Any] = {}
        """Rules whose conditions cannot be taken apart; tested after every change."""
        self._pending: dict[str, int] = {}
        self._ready: deque[Any] = deque()
        self._in_flight: dict[str, Any] = {}
        self._failure: StepFailed | None = None
        self._total = 0
        self._begin(parameters, provider)

    def run(self) -> None:
        """Run every node. Raises `StepFailed` when one failed, after those in flight have ended."""
        self._find_rules()
        self._extend()
        while True:
            self._submit()
            executed = self.jobs.wait()
            if executed is None:
                break
            self._ended(executed)
        self._tidy()
        if self._failure is not None:
            raise report.with_rest(self._failure, self.workflow)
        for line in report.never_scheduled(self.workflow):
            self.jobs.log("yadage.steering", "WARNING", line)
        self.jobs.log("adage", "INFO", "execution valid. (in terms of execution order)")
        self.jobs.log("adage", "INFO", "workflow completed successfully.")

    def save(self, path: Path) -> None:
        """Write the workflow, as far as it got, in the form that yadage's own tools read."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.workflow.json()))

    # extending the graph

    def _begin(self, parameters: Mapping[str, Any], provider: Provider) -> None:
        """Publish the initial data, if there is any or somebody asks for it."""
        stages = (rule.rule for rule in self.workflow.rules)
        asked = {name for stage in stages for name in needed(stage.depspec, stage.stagespec)}
        if parameters or "init" in asked:
            self.jobs.log(
                "yadage.creators",
                "INFO",
                f"initializing workflow with initdata: {dict(parameters)} discover: True relative: True",
            )
            self.workflow.view().init(dict(parameters), provider, discover=True, relative=True)

    def _find_rules(self) -> None:
        """Note the rules that are new."""
        for rule in self.workflow.rules[self._seen :]:
            self._rules.setdefault((rule.offset, rule.rule.name), []).append(rule)
            self._to_test.append(rule)
        self._seen = len(self.workflow.rules)

    def _extend(self) -> None:
        """Apply every rule that can be applied."""
        changed = True
        while changed and self._failure is None:
            changed = False
            while self._to_test and self._failure is None:
                changed = self._test(self._to_test.popleft()) or changed
            if changed:
                self._to_test.extend(self._restless.values())

    def _test(self, rule: Any) -> bool:
        """Apply a rule if its condition holds, else note what it waits for."""
        if rule.identifier in self._applied:
            return False
        condition = rule.rule.depspec
        kind = condition["dependency_type"] if condition else "jsonpath_ready"
        paths = condition["expressions"] if condition else []
        if kind == "jsonpath_ready" and all(SIMPLE_PATH.fullmatch(path) for path in paths):
            blockers = {key for path in paths for key in self._blockers(rule.offset, path)}
            if _NEVER in blockers:
                return False
            for key in blockers:
                self._waiting.setdefault(key, []).append(rule)
            self._waits[rule.identifier] = len(blockers)
            if blockers:
                return False
        elif not self._holds(rule):
            self._restless[rule.identifier] = rule
            return False
        self._apply(rule)
        return True

    def _holds(self, rule: Any) -> bool:
        """Whether a condition holds, asked of yadage; one that cannot be evaluated yet does not."""
        try:
            return bool(rule.applicable(self.workflow))
        except Exception:  # selections over results that are not there yet raise anything
            return False

    def _blockers(self, offset: str, path: str) -> Iterator[Key]:
        """What has to happen in a scope before all that a path of stages means has results."""
        first, _, rest = path.partition(".")
        part = _PART.fullmatch(first)
        assert part is not None
        name, index = part.groups()
        rules = self._rules.get((offset, name), [])
        unapplied = [rule.identifier for rule in rules if rule.identifier not in self._applied]
        if unapplied or not rules:
            yield from (("rule", each) for each in unapplied)
            if not rules:
                yield _NEVER
            return
        entries = _at(self.workflow.stepsbystage, offset).get(name, [])
        if index not in (None, "*"):
            entries = entries[int(index) : int(index) + 1]
        if not entries:
            yield _NEVER
        for entry in entries:
            inner = offset + entry["_offset"] if "_offset" in entry else None
            if rest and inner:
                yield from self._blockers(inner, rest)
            elif rest:
                yield _NEVER
            elif inner:
                yield from self._scope_blockers(_at(self.workflow.bookkeeping, inner))
            elif not self._node(entry["_nodeid"]).has_result():
                yield ("node", entry["_nodeid"])

    def _scope_blockers(self, scope: Mapping[str, Any]) -> Iterator[Key]:
        for name, inner in scope.items():
            if name != "_meta":
                yield from self._scope_blockers(inner)
                continue
            yield from (("rule", each) for each in inner["stages"] if each not in self._applied)
            yield from (("node", each) for each in inner["steps"] if not self._node(each).has_result())

    def _apply(self, rule: Any) -> None:
        steps = _at(self.workflow.bookkeeping, rule.offset)["_meta"]["steps"]
        before = len(steps)
        try:
            rule.apply(self.workflow)
        except Exception as error:
            self._fail(stage_of(rule.offset, rule.rule.name), f"cannot be scheduled: {report.said(error)}")
            return
        self._applied.add(rule.identifier)
        self._restless.pop(rule.identifier, None)
        for identifier in steps[before:]:
            self._define(self._node(identifier))
        self._find_rules()
        self._happened(("rule", rule.identifier))

    def _define(self, node: Any) -> None:
        """What is done once for a new node: its parameters, its result if it is known, what it waits for."""
        self.jobs.log("yadage.wflowview", "INFO", f"added {node!r}")
        dag = self.workflow.dag
        task = node.task
        node.final = task.parameters.map_text(task.state.contextualize_value)
        waits = [each for each in dag.predecessors(node.identifier) if not self._node(each).successful()]
        self._pending[node.identifier] = len(waits)
        publisher = task.spec["publisher"]
        try:
            if not task.state.readwrite and not waits:
                node.expected_result = publish(publisher, node.final, task.state, self._maker.hidden)
            else:
                node.expected_result = expected(publisher, node.final, task.state)
        except PublishError as error:
            self._fail(stage_of_node(node), str(error))
            return
        if not waits:
            self._ready.append(node)
        node.runs_a_command = runs_a_command(task.spec)
        self._total += node.runs_a_command

    def _happened(self, key: Key) -> None:
        for rule in self._waiting.pop(key, ()):
            self._waits[rule.identifier] -= 1
            if not self._waits[rule.identifier]:
                self._to_test.append(rule)

    # running nodes

    def _submit(self) -> None:
        """Hand over what is ready, until nothing more follows from what was known at once."""
        while self._ready and self._failure is None:
            nodes, self._ready = list(self._ready), deque()
            with_jobs = []
            for node in nodes:
                self.jobs.log("adage.pollingexec", "INFO", f"submitting nodes [{node!r}]")
                node.submit_time = time.time()
                if node.runs_a_command:
                    with_jobs.append(node)
                else:
                    self._finish_without_job(node)
            self.jobs.progress(self._total)
            if with_jobs and self._failure is None:
                self._submit_jobs(with_jobs)
            self._to_test.extend(self._restless.values())
            self._extend()

    def _submit_jobs(self, nodes: Sequence[Any]) -> None:
        specs: list[JobSpec] = []
        for node in nodes:
            try:
                specs.append(self._maker.spec(node))
            except PublishError as error:
                self._fail(stage_of_node(node), str(error))
                return
        for node, ticket in zip(nodes, self.jobs.submit(specs, self._maker.prepare), strict=True):
            self._in_flight[ticket.identity] = node
            if ticket.found is Lookup.HIT and ticket.result is not None:
                node = self._in_flight.pop(ticket.identity)
                if ticket.result.ok:
                    self._succeed(node, Values(decode(ticket.value, self.jobs.workspace)))
                else:
                    self._fail_job(node, ticket.result)

    def _ended(self, executed: Executed) -> None:
        node = self._in_flight.pop(executed.ticket.identity)
        if not executed.result.ok:
            self._fail_job(node, executed.result)
            return
        try:
            result = publish(node.task.spec["publisher"], node.final, node.task.state, self._maker.hidden)
            if node.expected_result is not None and result.json() != node.expected_result.json():
                raise PublishError(
                    f"published {result.json()}, and announced {node.expected_result.json()} before it ran"
                )
        except PublishError as error:
            self.jobs.reject(executed.ticket, str(error))
            self._fail_job(node, executed.result, str(error))
            return
        self.jobs.accept(executed.ticket, value=encode(result.json(), self.jobs.workspace))
        self._succeed(node, result)
        self._to_test.extend(self._restless.values())
        self._extend()

    def _finish_without_job(self, node: Any) -> None:
        task = node.task
        if needs_a_person(task.spec):
            self._fail(stage_of_node(node), "asks for somebody to do something by hand")
            return
        try:
            result = node.expected_result or publish(
                task.spec["publisher"], node.final, task.state, self._maker.hidden
            )
        except PublishError as error:
            self._fail(stage_of_node(node), str(error))
            return
        self._succeed(node, result)

    def _succeed(self, node: Any, result: Values) -> None:
        from adage import nodestate

        known = node.has_result()
        node._result = result
        node._state = nodestate.SUCCESS
        node.ready_by_time = time.time()
        self.jobs.log("adage.node", "INFO", f"node ready {node!r}")
        for each in self.workflow.dag.successors(node.identifier):
            self._pending[each] -= 1
            if not self._pending[each]:
                self._ready.append(self._node(each))
        if not known:
            self._happened(("node", node.identifier))

    def _fail_job(self, node: Any, result: JobResult, message: str = "") -> None:
        from adage import nodestate

        node._state = nodestate.FAILED
        node.ready_by_time = time.time()
        self.jobs.log("adage.node", "INFO", f"node ready {node!r}")
        text = report.failure(*self._maker.described(node), result, message)
        if self._failure is None:
            self._failure = StepFailed(stage_of_node(node), text, result)

    def _fail(self, stage: str, message: str) -> None:
        if self._failure is None:
            self._failure = StepFailed(stage, f"step {stage!r}: {message}")

    # afterwards

    def _tidy(self) -> None:
        """Leave the workflow object as yadage would: with the applied rules among the applied ones."""
        rules = self.workflow.rules
        self.workflow.applied_rules.extend(each for each in rules if each.identifier in self._applied)
        rules[:] = [each for each in rules if each.identifier not in self._applied]

    def _node(self, identifier: str) -> Any:
        return self.workflow.dag.nodes[identifier]["nodeobj"]


def stage_of_node(node: Any) -> str:
    """The stage that added a node, with the stages around it: `sub/map`."""
    return stage_of(node.task.metadata["wflow_offset"], node.task.metadata["wflow_stage"])


def stage_of(offset: str, stage: str) -> str:
    """The path of a stage, without the indices of sub-workflows."""
    return "/".join([*(part for part in offset.split("/")[1::2]), stage])


def _at(tree: Any, offset: str) -> Any:
    """The part of a tree of scopes that an offset such as `/sub/0` means."""
    parts = offset.split("/")[1:]
    for part in parts:
        part = part.replace("~1", "/").replace("~0", "~")
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
