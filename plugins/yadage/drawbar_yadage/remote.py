"""Parts of a workflow that are on the network: refused, or fetched when the user has allowed it."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.error import URLError
from urllib.parse import quote, urljoin
from urllib.request import Request, urlopen

from drawbar.documents import Document, Limits, brief, parse
from drawbar.errors import InfrastructureError, Problem, SpecError

_REMOTE = re.compile(r"(github|gitlab-cern|from-github|from-cap|https?|ftp|file)[:/]", re.IGNORECASE)
_REPOSITORY = re.compile(r"(github|gitlab-cern):([\w.-]+(?:/[\w.-]+)+)(?:@([\w./-]+))?(?::([\w./-]*))?")
_RAW = {
    "github": "https://raw.githubusercontent.com/{0}/{1}/{2}/",
    "gitlab-cern": "https://gitlab.cern.ch/{0}/-/raw/{1}/{2}/",
}
_DEFAULT_BRANCH = "master"
_DEADLINE_S = 30


def is_remote(text: str) -> bool:
    """Whether a text names something on the network."""
    return _REMOTE.match(text) is not None


def refuse_remote(what: str, text: str, where: Problem) -> None:
    """Raises `SpecError`, placed as `where` is, when a text names something on the network."""
    if is_remote(text):
        _refuse(f"the {what} {brief(text)} is on the network, from where nothing is fetched", where)


def address(toplevel: str, name: str, where: Problem) -> str:
    """The address of a file below a toplevel such as `github:user/repository@branch:directory`."""
    match = _REPOSITORY.fullmatch(toplevel)
    if match is not None:
        kind, repository, branch, directory = match.groups()
        base = _RAW[kind].format(repository, branch or _DEFAULT_BRANCH, (directory or "").strip("/"))
    elif toplevel.startswith(("https://", "http://")):
        base = f"{toplevel.rstrip('/')}/"
    else:
        _refuse(f"the toplevel {brief(toplevel)} is of a kind that cannot be fetched", where)
    return urljoin(re.sub(r"(?<!:)//+", "/", base), quote(name))


def relative(document: str, reference: str, where: Problem) -> str:
    """The address that a `$ref` in a document means."""
    if _REPOSITORY.fullmatch(reference):
        toplevel, _, name = reference.rpartition("/")
        return address(toplevel, name, where)
    made = urljoin(document, quote(reference, safe="/:@%"))
    if not made.startswith(("https://", "http://")):
        _refuse(f"the $ref {brief(reference)} is of a kind that cannot be fetched", where)
    return made


def fetch(url: str) -> Document:
    """The YAML or JSON document at an address of http or https.

    Raises `InfrastructureError` when it cannot be had, `SpecError` when it is no such document.
    """
    request = Request(url, headers={"User-Agent": "drawbar"})  # noqa: S310 (http and https only)
    try:
        with urlopen(request, timeout=_DEADLINE_S) as answer:  # noqa: S310
            data = answer.read(Limits().bytes + 1)
    except (URLError, OSError, ValueError) as error:
        raise InfrastructureError(f"{url} cannot be fetched: {error}") from error
    if len(data) > Limits().bytes:
        raise SpecError(Problem(message=f"is larger than {Limits().bytes} bytes", file=url))
    return parse(data.decode("utf-8", "replace"), url, json_syntax=url.endswith(".json"))


def _refuse(message: str, where: Problem) -> NoReturn:
    hint = "fetch it yourself, for instance with git clone, and name that; or give -o allow_network=true"
    raise SpecError(Problem(message=message, file=where.file, line=where.line, hint=hint))
