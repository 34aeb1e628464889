Feature: Log messages

    Scenario: The workflow starts with its parameters
        When the workflow is finished
        Then the engine logs should contain "yadage.creators | MainThread | INFO | initializing workflow"
        And the engine logs should contain
            """
            adage.node | MainThread | INFO | node ready </init:0|success|known>
            """

    Scenario: Every stage gets its turn
        When the workflow is finished
        Then the engine logs should contain
            """
            yadage.wflowview | MainThread | INFO | added </select:0|defined|unknown>
            """
        And the engine logs should contain
            """
            adage.node | MainThread | INFO | node ready </plot:0|success|known>
            """
        And the engine logs should contain
            """
            adage | MainThread | INFO | workflow completed successfully.
            """

    Scenario: The fit converges
        When the workflow is finished
        Then the job logs for the "fit" step should contain "for 55 degrees of freedom"
