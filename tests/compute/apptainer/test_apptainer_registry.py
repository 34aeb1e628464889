"""Images that Apptainer fetches from a registry."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for registry

from registry import Registry

pytestmark = pytest.mark.apptainer

USER, PASSWORD = "somebody", "s3cret-of-somebody"
ENTRY_POINT = ("/bin/sh", "-c", 'echo "entered: it\'s $0 \\$HOME"; exec "$@"', '`a` "b"')
ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - environment: {image}
        commands: ["busybox | head -n 1 > made.txt"]
outputs:
  files: [made.txt]
"""


@pytest.fixture
def registry(images):
    """A registry for those who have logged in, with one image."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(images / "busybox", ".")
        bash = tarfile.TarInfo("bin/bash")  # the shell of steps
        script = b'#!/bin/sh\nexec /bin/sh "$@"\n'
        bash.mode, bash.size = 0o755, len(script)
        archive.addfile(bash, io.BytesIO(script))
    made = Registry(content.getvalue(), "group/tool", user=USER, password=PASSWORD)
    made.set("1", "first", ENTRY_POINT)
    yield made
    made.close()


@pytest.fixture
def logged_in(registry, tmp_path, monkeypatch):
    """The home of a user who has done `docker login`, and says that the registry has no TLS."""
    configuration = tmp_path / "user" / ".docker" / "config.json"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(json.dumps(registry.configuration(USER, PASSWORD)))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("APPTAINER_NOHTTPS", "1")


def run(directory, image):
    analysis = directory / "analysis"
    analysis.mkdir()
    (analysis / "reana.yaml").write_text(ANALYSIS.format(image=image))
    return subprocess.run(
        [sys.executable, "-m", "drawbar.cli", "run", analysis, "--container", "apptainer", "--name", "one"],
        env={**os.environ, "DRAWBAR_HOME": str(directory / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


HELPER = """#!/bin/sh
# A credential helper of docker's: asked for a registry on its standard input.
[ "$1" = get ] && [ "$(cat)" = "{registry}" ] || exit 1
echo '{{"ServerURL": "{registry}", "Username": "{user}", "Secret": "{password}"}}'
"""


@pytest.fixture(params=["in the home", "elsewhere", "in a helper", "in a broken helper"])
def login(request, registry, logged_in, tmp_path, monkeypatch):
    """Where the user's docker keeps the credentials; the ways that Apptainer has not itself, too."""
    home = tmp_path / "user" / ".docker"
    if request.param != "in the home":
        home = home.rename(tmp_path / "configuration")
        monkeypatch.setenv("DOCKER_CONFIG", str(home))
    if "helper" in request.param:
        (home / "config.json").write_text(json.dumps({"credHelpers": {registry.address: "test"}}))
        helper = tmp_path / "bin" / "docker-credential-test"
        helper.parent.mkdir()
        server = "another" if "broken" in request.param else registry.address
        helper.write_text(HELPER.format(registry=server, user=USER, password=PASSWORD))
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    return request.param


def test_an_image_is_fetched_with_the_users_credentials(apptainer, registry, login, tmp_path):
    done = run(tmp_path, registry.image("1"))
    if login == "in a broken helper":
        assert done.returncode == 1
        assert "authentication required" in done.stderr
        assert "docker configuration" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert registry.asked["manifests"] == 1
    (made,) = (tmp_path / "home").rglob("made.txt")
    assert made.read_text().startswith("BusyBox")
    kept = b"".join(each.read_bytes() for each in (tmp_path / "home").rglob("*") if each.is_file())
    assert PASSWORD not in done.stdout + done.stderr
    assert PASSWORD.encode() not in kept


def test_an_image_that_is_not_the_users_to_fetch_ends_its_jobs(apptainer, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPTAINER_NOHTTPS", "1")
    done = run(tmp_path, registry.image("1"))
    assert done.returncode == 1
    assert "authentication required" in done.stderr
    assert "registry login" in done.stderr


@pytest.mark.parametrize("opener", ["open_local", pytest.param("open_slurm", marks=pytest.mark.slurm)])
def test_an_entry_point_goes_before_the_command_where_it_is_wanted(registry, logged_in, opener, request):
    image = registry.image("1")
    driver = request.getfixturevalue(opener)(image=image)
    driver.backend.fetch_image(image, lambda _: None)
    out = driver.directory / "out"
    for wanted in (False, True):
        attempt = driver.attempt("printf", "%s|", "a b", "$(c)", "'", entry_point=wanted, stdout=str(out))
        driver.run(attempt)
        result = driver.end(attempt)
        assert result.ok, (result, Path(attempt.record, "stderr").read_text())
        entered = 'entered: it\'s `a` "b" $HOME\n' if wanted else ""
        assert out.read_text() == f"{entered}a b|$(c)|'|"
