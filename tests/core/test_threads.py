"""What is told when a thread that somebody depends on dies."""

from __future__ import annotations

import threading

from drawbar.errors import BackendError
from drawbar.threads import watched


def test_a_thread_that_gives_up_says_why_and_is_no_mistake(capsys):
    """An error of drawbar's own says what to do; a traceback would hide that."""

    def give_up():
        raise BackendError("pods may not be listed; ask for the right to")

    said = []
    with watched(said.append):
        for name in ("drawbar-watcher", "of-somebody-else"):
            thread = threading.Thread(target=give_up if name.startswith("drawbar") else int, name=name)
            thread.start()
            thread.join()
    assert said == ["pods may not be listed; ask for the right to"]
    assert capsys.readouterr().err == ""
