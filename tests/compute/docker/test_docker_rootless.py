"""An engine without root: Podman's service of an ordinary user, who runs drawbar."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.podman

USER = "drawbar-test"


@pytest.fixture
def rootless(host, script, monkeypatch):
    """Where that user's service is."""
    if os.getuid() != 0:
        pytest.skip("only root can start a service of another user")
    monkeypatch.setenv("PODMAN_TEST_ROOTLESS", "1")
    script("start")
    yield script("env").strip().partition("=")[2]
    script("stop")


@pytest.fixture
def place():
    """A directory of that user, at a path that it can go."""
    directory = Path("/var/tmp") / f"drawbar-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def test_outputs_belong_to_the_user_whose_engine_it_is(rootless, place):
    user = pwd.getpwnam(USER)
    os.chown(place, user.pw_uid, user.pw_gid)
    program = Path(__file__).with_name("docker_driver.py")
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    done = subprocess.run(
        [*become, sys.executable, program, place, "host"],
        input='[[1, "id -u > inside; mkdir made; : > made/file"]]\nwait\n',
        env={**os.environ, "DOCKER_HOST": rootless, "HOME": str(place)},
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = (place / "attempts" / "1.1-1" / "result.json").read_text()
    assert '"exit_code": 0' in result, result
    assert (place / "inside").read_text() == "0\n"  # the engine's root, which is that user
    for name in ("inside", "made", "made/file", "attempts/1.1-1/stdout"):
        assert (place / name).stat().st_uid == user.pw_uid
