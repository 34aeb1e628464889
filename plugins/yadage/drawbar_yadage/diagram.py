"""A diagram of what a run did, as Mermaid text, which GitHub and many editors show as a picture."""

from __future__ import annotations

from typing import Any

from drawbar_yadage.driver import stage_of_node

_SHAPES = {"SUCCESS": ("[", "]"), "FAILED": ("{{", "}}")}


def mermaid(workflow: Any) -> str:
    """The graph of a workflow: a node for each step, failed ones as hexagons, unfinished ones round."""
    lines, names = ["flowchart TD"], {}
    for number, identifier in enumerate(workflow.dag.nodes):
        node = workflow.dag.nodes[identifier]["nodeobj"]
        names[identifier] = f"n{number}"
        left, right = _SHAPES.get(str(node.state), ("(", ")"))
        index = node.task.metadata["wflow_stage_node_idx"]
        lines.append(f'  n{number}{left}"{stage_of_node(node)} {index}"{right}')
    lines += [f"  {names[one]} --> {names[other]}" for one, other in workflow.dag.edges]
    return "\n".join(lines) + "\n"
