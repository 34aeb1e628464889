"""A picture of a workflow before it runs, as Mermaid text, which GitHub and many editors show."""

from __future__ import annotations

from drawbar.engine import WorkflowInfo

_ESCAPED = str.maketrans({"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " ", "\r": " "})


def mermaid(info: WorkflowInfo) -> str:
    """A flow chart of the steps, with an arrow to each from what it needs.

    A step that may yield several jobs has a double border.
    """
    numbers = {step.name: number for number, step in enumerate(info.steps)}
    lines = ["flowchart TD"]
    for name, number in numbers.items():
        left, right = ("[", "]") if info.steps[number].jobs == 1 else ("[[", "]]")
        lines.append(f'  s{number}{left}"{name.translate(_ESCAPED)}"{right}')
    lines += [
        f"  s{numbers[before]} --> s{number}"
        for number, step in enumerate(info.steps)
        for before in step.depends_on
        if before in numbers
    ]
    return "\n".join(lines) + "\n"
