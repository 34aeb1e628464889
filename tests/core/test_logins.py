"""The user's credentials for registries."""

from __future__ import annotations

import base64
import json

import pytest
from drawbar.logins import login

AUTH = base64.b64encode(b"me:pass:word").decode()


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Writes the user's docker configuration, and a credential helper `keys` that prints a text."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(configuration, prints="", code=0):
        (tmp_path / "config.json").write_text(json.dumps(configuration))
        helper = tmp_path / "docker-credential-keys"
        helper.write_text(f"#!/bin/sh\n[ \"$(/bin/cat)\" = r.org ] || exit 9\necho '{prints}'\nexit {code}\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return write


def test_nobody_has_logged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert login("r.org") is None


@pytest.mark.parametrize(
    ("auths", "registry", "found"),
    [
        ({"r.org": {"auth": AUTH}}, "r.org", ("me", "pass:word")),
        ({"r.org": {"auth": AUTH}}, "other.org", None),
        ({"https://index.docker.io/v1/": {"auth": AUTH}}, "docker.io", ("me", "pass:word")),
        ({"r.org": {}}, "r.org", None),
        ({"r.org": {"auth": AUTH, "identitytoken": "t"}}, "r.org", None),
    ],
)
def test_what_the_file_says(configure, auths, registry, found):
    configure({"auths": auths})
    assert login(registry) == found


@pytest.mark.parametrize("auths", [["r.org"], {"r.org": "x"}, {"r.org": {"auth": "not base64"}}])
def test_a_damaged_file_is_named(configure, auths):
    configure({"auths": auths})
    with pytest.raises(ValueError, match=r"config\.json is not as docker writes it"):
        login("r.org")


@pytest.mark.parametrize("settings", [{"credsStore": "keys"}, {"credHelpers": {"r.org": "keys"}}])
@pytest.mark.parametrize(
    ("prints", "code", "found"),
    [
        ('{"Username": "u", "Secret": "s"}', 0, ("u", "s")),
        ('{"Username": "<token>", "Secret": "s"}', 0, ("me", "pass:word")),
        ("credentials not found in native keychain", 1, ("me", "pass:word")),
    ],
)
def test_what_a_helper_says(configure, settings, prints, code, found):
    configure({"auths": {"r.org": {"auth": AUTH}}, **settings}, prints, code)
    assert login("r.org") == found


@pytest.mark.parametrize(
    ("helper", "prints", "code", "error"),
    [
        ("keys", "the keychain is locked", 1, "the keychain is locked"),
        ("keys", "s3cret", 0, "no credentials"),
        ("none", "", 0, "docker-credential-none"),
    ],
)
def test_a_broken_helper_is_named(configure, helper, prints, code, error):
    configure({"credsStore": helper}, prints, code)
    with pytest.raises((OSError, ValueError), match=error) as raised:
        login("r.org")
    assert "s3cret" not in str(raised.value)
