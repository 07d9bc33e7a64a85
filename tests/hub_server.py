"""A small Hugging Face Hub in memory, for the unmodified client: `python tests/hub_server.py --port 8080`.

It speaks what huggingface_hub needs to create, publish, tag, list and download models without Xet
(HF_HUB_DISABLE_XET=1). A test can ask it for faults, and for lies.
"""

import argparse
import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

# What .gitattributes of a fresh repository keeps in LFS
LARGE = (".safetensors", ".onnx", ".png", ".bin")
ROUTES = {
    "create": r"POST /api/repos/create",
    "validate": r"POST /api/validate-yaml",
    "preupload": r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)",
    "batch": r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
    "upload": r"PUT /lfs/(?P<oid>[0-9a-f]{64})",
    "verify": r"POST /lfs/verify",
    "commit": r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)",
    "tag": r"POST /api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<revision>[^/]+)",
    "untag": r"DELETE /api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<tag>[^/]+)",
    "refs": r"GET /api/models/(?P<repo>[^/]+/[^/]+)/refs",
    "tree": r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)",
    "info": r"GET /api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?",
    "resolve": r"(GET|HEAD) /(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
}
WRITES = {"create", "preupload", "batch", "verify", "commit", "tag", "untag"}


@dataclass
class Repository:
    """A repository: the files of each commit, what its branch and tags point to."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files):
        """Return the hash of a new commit with these files, which becomes the head."""
        content = f"{len(self.commits)} {sorted((path, sha256(file)) for path, file in files.items())}"
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid], self.branches["main"] = dict(files), oid
        return oid

    def resolve(self, revision):
        """Return the commit that a tag, branch or commit means, or None."""
        found = self.tags.get(revision) or self.branches.get(revision) or revision
        return found if found in self.commits else None


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD /path" matches `pattern`."""

    pattern: str
    times: int = 1
    status: int | None = None
    code: str = ""
    seconds: float = 0.0
    cut_after: int | None = None
    content: bytes | None = None


class Hub:
    """The state of the server, and the faults that were asked for; `log` holds "METHOD /path" of all requests."""

    def __init__(self, tokens):
        self.tokens = dict(tokens)
        self.repositories, self.blobs, self.log, self.faults = {}, {}, [], []
        self.stray_names = []
        self.lock = threading.RLock()

    def hold(self, repo, files, tag=None, private=False):
        """Return the commit of a repository that now holds these files, path -> content, under a tag."""
        repository = self.repositories.setdefault(repo, Repository(private))
        commit = repository.commit(files)
        if tag is not None:
            repository.tags[tag] = commit
        return commit

    def fail(self, pattern, **how):
        """Let requests that match a pattern go wrong, `how` being the fields of `Fault`."""
        self.faults.append(Fault(pattern, **how))

    def fault_of(self, request):
        """Return the fault of a request, used up once more, or one that changes nothing."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return Fault("")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    # Or each answer waits for the acknowledgement of its own head.
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Keep the terminal quiet."""

    def handle_one(self):
        hub, body = self.server.hub, self.read_body()
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        with hub.lock:
            hub.log.append(request)
            self.fault = hub.fault_of(request)
        time.sleep(self.fault.seconds)
        if self.fault.status is not None:
            return self.reply(self.fault.status, {"error": "asked for"}, code(self.fault.code))
        for name, pattern in ROUTES.items():
            found = re.fullmatch(pattern, f"{self.command} {urlsplit(self.path).path}")
            if found:
                parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                with hub.lock:
                    answer = self.refusal(name, parts) or getattr(self, f"on_{name}")(body, **parts)
                return self.reply(*answer)
        return self.reply(404, {"error": "no such route"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status, content=b"", headers=None):
        if not isinstance(content, bytes):
            headers = {"Content-Type": "application/json", **(headers or {})}
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        cut = self.fault.cut_after
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def refusal(self, name, parts):
        """Return the answer to who may not, or asks for what is not there; None where all is well."""
        hub = self.server.hub
        right = hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if name in WRITES and right != "write":
            return (403 if right else 401), {"error": "Invalid username or password."}
        if "repo" in parts:
            found = hub.repositories.get(parts["repo"])
            if found is None or (found.private and right is None):
                return 401 if right is None else 404, {"error": "Repository not found"}, code("RepoNotFound")
            if found.resolve(parts.get("revision", "main")) is None:
                return 404, {"error": "Invalid rev id"}, code("RevisionNotFound")
        return None

    def on_create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        answer = {"url": f"http://{self.headers['Host']}/{name}", "id": name}
        if name in self.server.hub.repositories:
            return 409, answer
        repository = Repository(asked.get("visibility") == "private")
        repository.commit({".gitattributes": b"".join(b"*%s filter=lfs\n" % end.encode() for end in LARGE)})
        self.server.hub.repositories[name] = repository
        return 200, answer

    def on_validate(self, body):
        content = json.loads(body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no front matter"}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}

    def on_preupload(self, body, repo, revision):
        there = self.files(repo, revision)
        asked = [file["path"] for file in json.loads(body)["files"]]
        return 200, {"files": [preuploaded(path, there.get(path)) for path in asked]}

    def on_batch(self, body, repo):
        base = f"http://{self.headers['Host']}/lfs"
        objects = []
        for asked in json.loads(body)["objects"]:
            wanted = {"upload": {"href": f"{base}/{asked['oid']}"}, "verify": {"href": f"{base}/verify"}}
            objects.append({**asked, **({} if asked["oid"] in self.server.hub.blobs else {"actions": wanted})})
        return 200, {"transfer": "basic", "objects": objects}

    def on_upload(self, body, oid):
        if sha256(body) != oid:
            return 400, {"error": "another content"}
        self.server.hub.blobs[oid] = body
        return 200, {}

    def on_verify(self, body):
        asked = json.loads(body)
        found = self.server.hub.blobs.get(asked["oid"])
        return (200 if found is not None and len(found) == asked["size"] else 404), {}

    def on_commit(self, body, repo, revision):
        head, *changes = (json.loads(line) for line in body.splitlines())
        repository = self.server.hub.repositories[repo]
        if head["value"].get("parentCommit") not in (None, repository.branches["main"]):
            return 412, {"error": "A commit has happened since"}
        files = self.files(repo, revision)
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.server.hub.blobs[value["oid"]]
            else:
                del files[value["path"]]
        oid = repository.commit(files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def on_tag(self, body, repo, revision):
        repository, tag = self.server.hub.repositories[repo], json.loads(body)["tag"]
        if tag in repository.tags:
            return 409, {"error": "Tag reference exists already"}
        repository.tags[tag] = repository.resolve(revision)
        return 200, {}

    def on_untag(self, body, repo, tag):
        gone = self.server.hub.repositories[repo].tags.pop(tag, None)
        return (200, {}) if gone else (404, {}, code("RevisionNotFound"))

    def on_refs(self, body, repo):
        repository = self.server.hub.repositories[repo]
        kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        found = {kind: [ref(where, *item) for item in refs.items()] for kind, (where, refs) in kinds.items()}
        return 200, {**found, "converts": []}

    def on_info(self, body, repo, revision="main"):
        repository = self.server.hub.repositories[repo]
        listed = [sibling(path, file) for path, file in sorted(self.files(repo, revision).items())]
        listed += [{**listed[0], "rfilename": name} for name in self.server.hub.stray_names]
        about = {"id": repo, "sha": repository.resolve(revision), "private": repository.private, "tags": []}
        return 200, {**about, "siblings": listed}

    def on_tree(self, body, repo, revision):
        found = [sibling(path, file) for path, file in sorted(self.files(repo, revision).items())]
        names = [*((file["rfilename"], file) for file in found), *((n, found[0]) for n in self.server.hub.stray_names)]
        return 200, [
            {"type": "file", "path": name, "oid": file["blobId"], "size": file["size"]} for name, file in names
        ]

    def on_resolve(self, body, repo, revision, path):
        commit = self.server.hub.repositories[repo].resolve(revision)
        content = self.files(repo, revision).get(path)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return 404, {"error": "Entry not found"}, {**headers, **code("EntryNotFound")}
        headers["ETag"] = f'"{sibling(path, content)["blobId"] if not is_large(path) else sha256(content)}"'
        content = content if self.fault.content is None else self.fault.content
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if first is None:
            return 200, content, headers
        headers["Content-Range"] = f"bytes {first[1]}-{len(content) - 1}/{len(content)}"
        return 206, content[int(first[1]) :], headers

    def files(self, repo, revision):
        repository = self.server.hub.repositories[repo]
        return dict(repository.commits[repository.resolve(revision)])


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def code(name):
    return {"X-Error-Code": name}


def is_large(path):
    return path.endswith(LARGE)


def preuploaded(path, there):
    oid = None if there is None else sha256(there) if is_large(path) else git_sha1(there)
    return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False, "oid": oid}


def sibling(path, content):
    large = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
    kept = {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
    return {**kept, "lfs": large} if is_large(path) else kept


def ref(where, name, commit):
    return {"name": name, "ref": f"refs/{where}/{name}", "targetCommit": commit}


class Server(ThreadingHTTPServer):
    """The server; `hub` is its state, `address` what HF_ENDPOINT must be."""

    daemon_threads = True

    def __init__(self, port, tokens):
        super().__init__(("127.0.0.1", port), Handler)
        self.hub = Hub(tokens)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Pass over clients that went away."""


def main():
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub in memory.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--token", default="hf_local", help="what HF_TOKEN must be to write")
    asked = parser.parse_args()
    server = Server(asked.port, {asked.token: "write"})
    print(f"HF_ENDPOINT={server.address} HF_TOKEN={asked.token} HF_HUB_DISABLE_XET=1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("all that was published here is gone")


if __name__ == "__main__":
    main()
