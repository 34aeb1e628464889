Feature: Workspace files

    Scenario: Each stage leaves its result in its own directory
        When the workflow is finished
        Then the workspace should contain "select/selected.csv"
        And the workspace should contain "histogram/histogram.json"
        And all the outputs should be included in the workspace

    Scenario: The Z boson is where it should be
        When the workflow is finished
        Then the file "fit/fit.json" should contain "90.7"
