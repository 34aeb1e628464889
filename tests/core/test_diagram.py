"""The picture of a workflow before it runs."""

from drawbar.diagram import mermaid
from drawbar.engine import StepInfo, WorkflowInfo


def test_steps_are_boxes_and_dependencies_arrows():
    steps = (
        StepInfo(name="select"),
        StepInfo(name="fit", jobs=None, depends_on=("select", "gone")),
        StepInfo(name="plot", depends_on=("fit", "select")),
    )
    assert mermaid(WorkflowInfo(steps=steps)) == (
        'flowchart TD\n  s0["select"]\n  s1[["fit"]]\n  s2["plot"]\n  s0 --> s1\n  s1 --> s2\n  s0 --> s2\n'
    )


def test_names_cannot_say_anything_else():
    text = mermaid(WorkflowInfo(steps=(StepInfo(name='a"]\nclick s0 "javascript:x" <b>#'),)))
    assert text == 'flowchart TD\n  s0["a#quot;] click s0 #quot;javascript:x#quot; #lt;b#gt;#35;"]\n'


def test_no_steps():
    assert mermaid(WorkflowInfo()) == "flowchart TD\n"
