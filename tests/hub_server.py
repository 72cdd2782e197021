"""A stand-in for the Hugging Face hub: the part of its API that ``huggingface_hub`` and ``datasets`` use to read, and
what it takes to make a repository and commit files to it.

It answers in a thread of this process, keeps a list of what it was asked, and can refuse, or lose the connection, as
the real one does. Large files are redirected to a second address with ranges, small ones are sent as they are; what is
committed comes in one request, whatever its size.
"""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_read"
"""The token that may read."""
WRITE_TOKEN = "hf_write"
"""The token that may write, too."""


@dataclass
class Repo:
    """One repository.

    Attributes:
        commits: commit → file name → contents, oldest first.
        refs: branch or tag → commit.
        gated: who may read its files: ``""`` everybody, ``"token"`` whoever has the token, ``"nobody"``.
        private: whether it is hidden from whoever has no token.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: str = ""
    private: bool = False

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Add a state; returns its commit."""
        text = json.dumps([[name, hashlib.sha1(data).hexdigest()] for name, data in sorted(files.items())])
        name = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs[branch] = name
        return name


@dataclass(frozen=True)
class Asked:
    """One request: method, path without query, the range asked for, and how it was answered."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


class HubServer:
    """The server.

    Attributes:
        repos: (``models`` or ``datasets``, id) → repository.
        asked: what it was asked, in order.
        cuts: file name → bytes after which the connection is lost, once.
        down: answer everything with 503.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.asked: list[Asked] = []
        self.cuts: dict[str, int] = {}
        self.down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def cdn(self) -> str:
        """Where large files are: another host, to which no token may go."""
        return f"http://localhost:{self._server.server_address[1]}/cdn"

    @property
    def url(self) -> str:
        """Address, as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """End the thread."""
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget every repository and request."""
        self.repos.clear()
        self.asked.clear()
        self.cuts.clear()
        self.down = False

    def add(self, name: str, folder: Path | Mapping[str, bytes], *, kind: str = "models", **about: Any) -> Repo:
        """Publish a folder, or files; returns the repository."""
        repo = self.repos[kind, name] = Repo(**about)
        repo.commit(files_of(folder) if isinstance(folder, Path) else folder)
        return repo

    def sent(self) -> dict[str, int]:
        """File name → bytes of it that were sent, of every file of which any were."""
        found: dict[str, int] = {}
        for item in self.asked:
            if item.method == "GET" and item.sent and item.status in {200, 206} and "/api/" not in item.path:
                name = item.path.rpartition("/")[2]
                found[name] = found.get(name, 0) + item.sent
        return found


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their relative names."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(self.rfile.read(length))

    def _answer(self, body: bytes = b"") -> None:
        split = urlsplit(self.path)
        if self.hub.down:
            self._send(503, b"{}")
            return
        # A revision with slashes is one part.
        parts = [unquote(part) for part in split.path.strip("/").split("/")]
        if parts[0] == "cdn":
            assert "Authorization" not in self.headers, "a token was sent to another host"
            self._file(*self._large(parts[1], parts[2]), "", large=True)
            return
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts[0] if parts[0] in {"models", "datasets"} else "models"
        parts = parts[1:] if parts[0] == kind else parts
        repo = self.hub.repos.get((kind, "/".join(parts[:2])))
        known = self._token in {TOKEN, WRITE_TOKEN}
        if api and self.command == "POST" and self._writes(parts, body):
            return
        if repo is None or (repo.private and not known):
            self._refuse(404 if known else 401, "RepoNotFound", "Repository not found")
            return
        rest = parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repo.commits[commit]
        if api:
            what = rest[0] if rest else "revision"
            self._api(what, "/".join(parts[:2]), repo, commit, files, "/".join(rest[2:]), split.query, body)
            return
        if repo.gated == "nobody" or (repo.gated == "token" and not known):
            self._refuse(403 if known else 401, "GatedRepo", "Access to this repository is restricted")
            return
        name = "/".join(rest[2:])
        if name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        self._file(name, files[name], commit)

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _writes(self, parts: list[str], body: bytes) -> bool:
        """Make a repository, or take files for one; returns whether that was asked."""
        creates, name = parts == ["repos", "create"], "/".join(parts[:2])
        if parts == ["validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif not creates and (len(parts) < 3 or parts[2] not in {"preupload", "commit"}):
            return False
        elif self._token != WRITE_TOKEN:
            forbidden = self._token == TOKEN
            said = "You don't have the rights to create a model" if forbidden else "Invalid username or password."
            self._refuse(403 if forbidden else 401, "", said)
        elif creates:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            repo = self.hub.repos["models", name] = Repo(private=asked["visibility"] == "private")
            repo.commit({})
            self._json({"url": f"{self.hub.url}/{name}"})
        elif parts[2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]})
        else:
            repo = self.hub.repos["models", name]
            sent = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            new = {file["path"]: base64.b64decode(file["content"]) for file in sent}
            commit = repo.commit({**repo.commits[repo.refs["main"]], **new})
            self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})
        return True

    def _api(
        self,
        what: str,
        name: str,
        repo: Repo,
        commit: str,
        files: dict[str, bytes],
        below: str,
        query: str,
        body: bytes,
    ) -> None:
        if what == "revision":
            about = {
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": repo.private,
                "gated": "auto" if repo.gated else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": file} for file in sorted(files)],
            }
            self._json(about)
        elif what == "tree":
            start = f"{below}/" if below else ""
            found = {file: _entry(file, data) for file, data in files.items() if file.startswith(start)}
            for file in list(found):
                parts = file.split("/")
                for folder in ("/".join(parts[:end]) for end in range(1, len(parts))):
                    if folder.startswith(start):
                        found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            if parse_qs(query).get("recursive", ["False"])[0].lower() != "true":
                found = {file: entry for file, entry in found.items() if "/" not in file[len(start) :]}
            if below and not found:
                self._refuse(404, "EntryNotFound", "Entry not found")
                return
            self._json([found[file] for file in sorted(found)])
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            self._json([_entry(file, files[file]) for file in asked if file in files])
        else:
            self._refuse(404, "EntryNotFound", f"no {what} here")

    def _large(self, digest: str, name: str) -> tuple[str, bytes]:
        states = [files for repo in self.hub.repos.values() for files in repo.commits.values()]
        found = [item for files in states for item in files.items() if item[0].endswith(name)]
        return next(item for item in found if hashlib.sha256(item[1]).hexdigest() == digest)

    def _file(self, name: str, data: bytes, commit: str, *, large: bool = False) -> None:
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"} | ({} if large else {"X-Repo-Commit": commit})
        if name.endswith((".safetensors", ".bin")) and not large:
            headers |= {
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.cdn}/{digest}/{name.rpartition('/')[2]}",
            }
            self._send(302, b"", headers)
            return
        asked = self.headers.get("Range")
        status, first, last = 200, 0, len(data)
        if asked is not None:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(len(data), int(end) + 1 if end else len(data))
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(data)}"
        self._send(status, data[first:last], headers, name=name)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(
            status, json.dumps({"error": message}).encode(), headers | ({"X-Repo-Commit": commit} if commit else {})
        )

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}, *, name: str = "") -> None:
        cut = self.hub.cuts.pop(name, None) if self.command == "GET" else None
        sent = 0 if self.command == "HEAD" else len(body) if cut is None else cut
        path = unquote(urlsplit(self.path).path)
        # Before it is sent: whoever has the answer may look at the list.
        self.hub.asked.append(Asked(self.command, path, self.headers.get("Range"), status, sent))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if name.endswith((".safetensors", ".bin")):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
