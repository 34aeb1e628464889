"""The user's credentials for registries of images, from the configuration that `docker login` writes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
"""What the configuration calls Docker's own registry."""
_HELPER_S = 60.0
_NOT_FOUND = "credentials not found"
_TOKEN = "<token>"  # noqa: S105


def login(registry: str) -> tuple[str, str] | None:
    """A user's name and password for a registry; None where docker knows none, or a token alone.

    A credential helper is asked first, then what the file has itself. Raises OSError and ValueError when
    the configuration is damaged, and a helper is missing or fails.
    """
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    key = _HUB_KEY if registry == _HUB else registry
    try:
        helper = (known.get("credHelpers") or {}).get(key) or known.get("credsStore")
        entry = (known.get("auths") or {}).get(key) or {}
        user, _, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{path} is not as docker writes it") from None  # the cause may quote a password
    if helper and (found := _ask(f"docker-credential-{helper}", key)):
        return found
    return (user, password) if user and password and "identitytoken" not in entry else None


def _ask(program: str, key: str) -> tuple[str, str] | None:
    """What a credential helper knows of a registry. It prints its errors where it prints credentials."""
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=_HELPER_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{program} does not answer within {_HELPER_S:g} s") from error
    if done.returncode:
        if _NOT_FOUND in done.stdout:
            return None
        raise ValueError(f"{program} ended with {done.returncode}: {(done.stdout or done.stderr).strip()}")
    try:
        answer = json.loads(done.stdout)
        user, password = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{program} has answered with no credentials") from None  # which may be in it
    return (user, password) if user != _TOKEN else None
