"""A stand-in for the Hugging Face Hub: the routes by which huggingface_hub makes, fills and reads repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_ofThisTestAlone"
SOMEBODY_ELSES = "somebody"  # an owner where the token may read and not write
SILENT = "silence"  # an owner at whose name the connection breaks
COMMIT = "0" * 40


class Hub:
    """What it holds.

    Attributes:
        endpoint: its address.
        repositories: the files of each, by name.
        private: the repositories that one token alone sees.
        messages: of the commits.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.repositories: dict[str, dict[str, bytes]] = {f"{SOMEBODY_ELSES}/model": {}}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.large: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self._body()
        if f"/{SILENT}/" in self.path or f'"{SILENT}"'.encode() in body:
            self.close_connection = True
            self.connection.close()
            return
        if (self.headers.get("Authorization") or f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid credentials"}, message="Invalid credentials in Authorization header")
            return
        for pattern, answer in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda body: self._send(200, {"errors": [], "warnings": []})),
            (r"/api/models/([\w-]+/[\w-]+)(?:/revision/main)?", self._info),
            (r"/api/models/([\w-]+/[\w-]+)/preupload/main", self._preupload),
            (r"/api/models/([\w-]+/[\w-]+)/commit/main", self._commit),
            (r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/large/(\w+)", self._store),
            (r"/([\w-]+/[\w-]+)/resolve/main/(.+)", self._file),
        ):
            if found := re.fullmatch(pattern, self.path.partition("?")[0]):
                answer(body, *found.groups())  # type: ignore[operator]
                return
        self._send(404, {"error": f"no route {self.path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, content: Any, *, message: str | None = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in ({"X-Error-Message": message} if message else {} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _forbidden(self, name: str) -> bool:
        if not name.startswith(f"{SOMEBODY_ELSES}/"):
            return False
        self._send(403, {"error": "Forbidden"}, message="You have no rights here")
        return True

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if self._forbidden(name):
            return
        there = name in self.hub.repositories
        if not there:
            self.hub.repositories[name] = {}
            if asked.get("visibility") == "private" or asked.get("private"):
                self.hub.private.add(name)
        self._send(409 if there else 200, {"url": f"{self.hub.endpoint}/{name}"})

    def _info(self, body: bytes, name: str) -> None:
        self._send(200, {"id": name, "private": name in self.hub.private, "sha": COMMIT, "siblings": []})

    def _preupload(self, body: bytes, name: str) -> None:
        if self._forbidden(name):
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, body: bytes, name: str) -> None:
        objects = [
            {**asked, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{asked['oid']}"}}}
            for asked in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self._send(200, b"")

    def _commit(self, body: bytes, name: str) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                self.hub.repositories[name][value["path"]] = self.hub.large[value["oid"]]
        url = f"{self.hub.endpoint}/{name}/commit/{COMMIT}"
        self._send(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _file(self, body: bytes, name: str, path: str) -> None:
        content = self.hub.repositories.get(name, {}).get(path)
        if content is None:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(200, content, ETag=etag, X_Repo_Commit=COMMIT)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine, as long as it is entered."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = _Handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
