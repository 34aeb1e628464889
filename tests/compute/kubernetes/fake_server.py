"""How the fake cluster speaks HTTP."""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from fake_cluster import FakeCluster

_PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?")


def handler(cluster: FakeCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def handle_any(self) -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            cluster.tokens.append(self.headers.get("Authorization", ""))
            cluster.calls.append(("WATCH" if "watch" in query else self.command, address.path))
            if cluster.busy > 0:
                cluster.busy -= 1
                self.answer(429, refused("too many requests"), {"Retry-After": "1"})
                return
            if address.path == "/version":
                self.answer(200, {"major": str(cluster.version[0]), "minor": str(cluster.version[1])})
                return
            if address.path.endswith("selfsubjectaccessreviews"):
                wish = body["spec"]["resourceAttributes"]
                allowed = f"{wish['verb']} {wish['resource']}" not in cluster.forbidden
                self.answer(201, {"status": {"allowed": allowed}})
                return
            match = _PATH.fullmatch(address.path)
            if match is None:
                self.answer(404, refused("there is no such path"))
                return
            namespace, kind, name = match.groups()
            verb = "get" if name else "watch" if "watch" in query else "list"
            if self.command == "GET" and f"{verb} {kind}" in cluster.forbidden:
                message = f'{kind} is forbidden: User "fake" cannot {verb} resource "{kind}" in API group ""'
                self.answer(403, refused(message))
                return
            if self.command == "POST":
                status, answer = cluster.create(body, namespace)
                if cluster.deaf > 0:
                    cluster.deaf -= 1
                    self.close_connection = True
                    return
                self.answer(status, answer)
            elif self.command == "DELETE":
                cluster.remove(query["labelSelector"])
                self.answer(200, {"kind": "JobList"})
            elif name:
                found = cluster.find(kind, name)
                self.answer(200 if found else 404, found or refused(f"{kind} {name} not found"))
            elif "watch" in query:
                self.stream(kind, query)
            else:
                self.list(kind, query)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def list(self, kind: str, query: dict[str, str]) -> None:
            with cluster._lock:
                items = cluster.select(kind, query.get("labelSelector", ""))
                first, limit = int(query.get("continue", 0)), int(query.get("limit", 10**9))
                metadata = {"resourceVersion": str(cluster._version)}
                if first + limit < len(items):
                    metadata["continue"] = str(first + limit)
                data = json.dumps({"metadata": metadata, "items": items[first : first + limit]}).encode()
            self.answer(200, data)

        def stream(self, kind: str, query: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            until = time.monotonic() + float(query["timeoutSeconds"])
            since, selector = int(query["resourceVersion"]), query.get("labelSelector", "")
            watches = cluster._watches
            for event in cluster.follow(kind, since, until, selector):
                data = event + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if cluster._watches != watches:
                self.close_connection = True  # in the middle, without an end
            else:
                self.wfile.write(b"0\r\n\r\n")

        def answer(self, status: int, content: dict | bytes, headers: dict[str, str] | None = None) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

    return Handler


def refused(message: str) -> dict:
    return {"kind": "Status", "status": "Failure", "message": message}
