Feature: Log messages

    Scenario: Every step is published to the engine log
        When the workflow is finished
        Then the engine logs should contain "Publishing step:0, cmd: python code/select_events.py --events "
        And the engine logs should contain "Publishing step:1, cmd: python code/histogram.py"
        And the engine logs should contain "Publishing step:2, cmd: python code/fit.py"
        And the engine logs should contain "Publishing step:3, cmd: python code/plot.py"

    Scenario: The selection counts what passes each cut
        When the workflow is finished
        Then the job logs for the "select" step should contain
            """
                           pairs:  2304
               both global muons:   516
                 opposite charge:   508
             transverse momentum:   458
              one pair per event:   457
                     mass window:   457
            """

    Scenario: The fit converges
        When the workflow is finished
        Then the job logs for the "fit" step should contain "for 55 degrees of freedom"
