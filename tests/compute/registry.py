"""A registry on this machine with one image under several tags: what a test needs of the v2 pull API.

Container engines take a registry on 127.0.0.0/8 without TLS.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import secrets
import tarfile
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PATIENCE_S = 60


class Registry:
    """Serves `NAME:TAG` on 127.0.0.1, from when it is made until `close`.

    `asked` counts requests by kind. `failures` is how many manifests are answered with 503 first; blobs
    come when `gate` is set. With `user` and `password`, nobody else is served.
    """

    def __init__(self, layer: bytes, name: str, *, user: str = "", password: str = "") -> None:
        self.name = name
        self.asked: Counter[str] = Counter()
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()
        self._credentials = base64.b64encode(f"{user}:{password}".encode()).decode() if user else None
        self._layer, self._packed = layer, gzip.compress(layer, mtime=0)
        self._blobs: dict[str, bytes] = {digest(self._packed): self._packed}
        self._tags: dict[str, bytes] = {}
        self._mark = secrets.token_hex(8)
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry._answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                """Nothing: engines try TLS first, which is no HTTP."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def image(self, tag: str) -> str:
        """What the image is called with a tag."""
        return f"{self.address}/{self.name}:{tag}"

    def set(self, tag: str, version: str, entry_point: Sequence[str] = ()) -> str:
        """Let a tag mean a version of the image, which differs in a label; its digest.

        Another label makes it an image that no engine has kept from an earlier registry.
        """
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Labels": {"version": version, "registry": self._mark},
                    "Env": ["PATH=/bin"],
                    **({"Entrypoint": list(entry_point)} if entry_point else {}),
                },
                "rootfs": {"type": "layers", "diff_ids": [digest(self._layer)]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "size": len(config), "digest": digest(config)},
                "layers": [{"mediaType": LAYER, "size": len(self._packed), "digest": digest(self._packed)}],
            }
        ).encode()
        self._blobs[digest(config)] = config
        self._tags[tag] = self._tags[digest(manifest)] = manifest
        return digest(manifest)

    def configuration(self, user: str, password: str) -> dict:
        """The user's docker configuration after a `docker login` here."""
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"auths": {self.address: {"auth": auth}}}

    def close(self) -> None:
        """Serve nobody any more."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._credentials and request.headers.get("Authorization") != f"Basic {self._credentials}":
            self.asked["refused"] += 1
            self._say(request, 401, b"{}", {"WWW-Authenticate": 'Basic realm="test"'})
        elif request.path == "/v2/":
            self._say(request, 200, b"{}")
        elif found := re.fullmatch(f"/v2/{re.escape(self.name)}/(manifests|blobs)/(.+)", request.path):
            kind, reference = found.groups()
            if request.command == "GET":
                self.asked[kind] += 1
            if kind == "manifests" and self.failures:
                self.failures -= 1
                self._say(request, 503, b"{}")
            elif kind == "blobs" and reference in self._blobs and self.gate.wait(PATIENCE_S):
                self._say(request, 200, self._blobs[reference], {"Content-Type": "application/octet-stream"})
            elif kind == "manifests" and reference in self._tags:
                content = self._tags[reference]
                headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest(content)}
                self._say(request, 200, content, headers)
            else:
                self._say(request, 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}')
        else:
            self._say(request, 404, b"{}")

    def _say(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {"Docker-Distribution-Api-Version": "registry/2.0", **(headers or {})}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer_of(archive: bytes) -> bytes:
    """The one layer of an image that an engine has saved."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))
        (layer,) = manifest["Layers"]
        return tar.extractfile(layer).read()
