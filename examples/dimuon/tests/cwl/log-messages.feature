Feature: Log messages

    Scenario: Every step is told in the engine log
        When the workflow is finished
        Then the engine logs should contain "cwltool | MainThread | INFO | [workflow ] start"
        And the engine logs should contain "cwltool | MainThread | INFO | [step select] start"
        And the engine logs should contain "cwltool | select | INFO | [step select] completed success"
        And the engine logs should contain "cwltool | plot | INFO | [step plot] completed success"
        And the engine logs should contain "Final process status is success"

    Scenario: The fit converges
        When the workflow is finished
        Then the job logs for the "fit" step should contain "for 55 degrees of freedom"
