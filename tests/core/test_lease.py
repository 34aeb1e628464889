"""Who is alive: by host, boot, process and its start, or by the heartbeat alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from drawbar.lease import EXPIRY_S, HEARTBEAT_S, Lease, start_of, this_host


def test_this_process_is_alive_and_its_lease_not_to_be_had():
    lease = Lease.own()
    assert (lease.local, lease.alive, lease.takeable) == (True, True, False)
    assert str(os.getpid()) in str(lease)
    assert this_host()[0] in str(lease)


def test_a_lease_given_back_is_nobodys():
    lease = Lease.own().released()
    assert lease.alive is False
    assert lease.takeable


def test_the_start_of_a_process_tells_it_from_a_later_one_of_the_same_id():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = replace(Lease.own(), pid=child.pid, started=start_of(child.pid))
    assert lease.alive
    assert replace(lease, started=f"{lease.started}0").alive is False
    child.stdin.close()
    child.wait()
    assert start_of(child.pid) == ""
    assert lease.alive is False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_nobody_has_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()
    until = time.monotonic() + 20
    while start_of(child.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    child.stdout.close()
    child.wait()


@pytest.mark.parametrize(
    ("host", "boot", "age", "alive", "takeable"),
    [
        (None, "other boot", 0, False, True),
        ("elsewhere", None, 0, None, False),
        ("elsewhere", None, EXPIRY_S - 5, None, False),
        ("elsewhere", None, EXPIRY_S + 5, False, False),
        ("elsewhere", "other boot", EXPIRY_S + 5, False, False),
    ],
)
def test_elsewhere_only_the_heartbeat_counts(host, boot, age, alive, takeable):
    own = Lease.own()
    lease = replace(own, host=host or own.host, boot=boot or own.boot, heartbeat=time.time() - age)
    assert (lease.alive, lease.takeable, lease.local) == (alive, takeable, False)


def test_a_driver_beats_several_times_before_it_counts_as_silent():
    assert HEARTBEAT_S * 3 <= EXPIRY_S
