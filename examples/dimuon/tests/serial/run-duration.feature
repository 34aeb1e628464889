Feature: Run duration

    Scenario: The analysis takes a few seconds of computing
        When the workflow execution completes
        Then the workflow run duration should be less than 5 minutes
        And the duration of the step "fit" should be less than 2 minutes
