Feature: Log messages

    Snakemake's own messages and those of the single jobs.

    Scenario: The workflow has run to its end
        When the workflow is finished
        Then the engine logs should contain
            """
            snakemake.logging | MainThread | INFO | Building DAG of jobs...
            """
        And the engine logs should contain "5 of 5 steps (100%) done"

    Scenario: The jobs are named after their rules
        When the workflow is finished
        Then the engine logs should contain "Job 'select' received"
        And the engine logs should contain "plot job is finished"
