"""A stand-in of the Hugging Face Hub on this machine: as much of its interface as pushing and fetching a network uses.

`huggingface_hub` itself talks to it, told where it is by HF_ENDPOINT; revisions are kept whole.
"""

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

import yaml


class Hub:
    """What the server holds.

    token: that may write.
    commits: for each repository its revisions, oldest first, each the files by name.
    blobs: large files by their SHA-256, as Git LFS keeps them.
    cards: metadata of cards that were asked about, as the Hub reads them.
    asked: method and path of every request, in order.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.address = ""
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.cards: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The full name of a revision, and its files."""
        commits = self.commits.get(repository, [])
        names = {f"{n:040x}": files for n, files in enumerate(commits)}
        found = max(names, default="") if revision == "main" else revision
        return (found, names[found]) if found in names else None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        body = self.body()
        if self.path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'somebody')}/{asked['name']}"
            self.hub.commits.setdefault(name, [])
            return self.answer(200, {"url": f"{self.hub.address}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            self.hub.cards.append(yaml.safe_load(head))
            return self.answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            modes = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.hub.address}/blobs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            before = self.hub.commits[found[1]]
            files = dict(before[-1]) if before else {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            before.append(files)
            name = f"{len(before) - 1:040x}"
            return self.answer(
                200, {"success": True, "commitUrl": f"{self.hub.address}/{found[1]}/commit/{name}", "commitOid": name}
            )
        return self.answer(404, {"error": f"no {self.path}"})

    def do_PUT(self) -> None:
        self.hub.asked.append(f"PUT {self.path}")
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer(400)
        self.hub.blobs[oid] = content
        return self.answer(200)

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)(?:\?.*)?", self.path):
            if (revision := self.hub.files(found[1], found[2])) is None:
                return self.absent(found[1])
            siblings = [{"rfilename": name, "size": len(content)} for name, content in revision[1].items()]
            return self.answer(200, {"id": found[1], "sha": revision[0], "siblings": siblings})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)(?:\?.*)?", self.path):
            if (revision := self.hub.files(found[1], found[2])) is None:
                return self.absent(found[1])
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in revision[1].items()
            ]
            return self.answer(200, json.dumps(listed).encode())
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            revision = self.hub.files(found[1], found[2])
            if revision is None or found[3] not in revision[1]:
                return self.absent(found[1])
            content = revision[1][found[3]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=revision[0])
        return self.answer(404, {"error": f"no {self.path}"})

    do_HEAD = do_GET

    def absent(self, repository: str) -> None:
        there = repository in self.hub.commits
        self.answer(404, X_Error_Code="RevisionNotFound" if there else "RepoNotFound", X_Error_Message="not found")


@contextmanager
def serving(token: str) -> Iterator[Hub]:
    """The Hub, at a port of its own of this machine, while the context lasts."""
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfOneHub", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
