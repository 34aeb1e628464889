Feature: Workspace files

    Scenario: The results are there
        When the workflow is finished
        Then the workspace should contain "results/fit.json"
        And the workspace should contain "results/dimuon.png"
        And all the outputs should be included in the workspace

    Scenario: The Z boson is where it should be
        When the workflow is finished
        Then the file "results/fit.json" should contain "90.7"
