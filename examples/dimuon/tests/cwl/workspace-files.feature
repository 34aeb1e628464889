Feature: Workspace files

    Scenario: The declared outputs are there
        When the workflow is finished
        Then all the outputs should be included in the workspace
        And the size of the file "outputs/dimuon.png" should be between 20 KiB and 1 MiB

    Scenario: The Z boson is where it should be
        When the workflow is finished
        Then the file "outputs/fit.json" should contain "90.7"

    Scenario: The input data are untouched
        When the workflow is finished
        Then the sha256 checksum of the file "data/dimuon.csv" should be "89cd529d180cb5c9b31b9d4c9bce882c054b667398945ec624616460cf4c8e78"
