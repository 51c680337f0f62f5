"""A Hugging Face Hub on loopback, in memory: as much of its API as models and Spaces take, and failures on demand.

A Space is run as it is on the Hub: what was committed is written out, and `python app.py` started there with the
Space's variables.
"""

import asyncio
import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal
from urllib.parse import unquote

import huggingface_hub
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGE = (".safetensors", ".onnx", ".png")
TOKENS = {"hf_writer": "write", "hf_reader": "read"}  # both of the user `lung`

Files = dict[str, bytes]
Kind = Literal["models", "spaces"]


class Process:
    """A Space's app; `stage` is as the Hub tells it."""

    def __init__(self, files: Files, folder: Path, variables: dict[str, str]) -> None:
        for name, body in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.stage = "APP_STARTING"
        self.log: list[str] = []
        settings = {
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "HF_HOME": str(folder / "home"),
            "PYTHONUNBUFFERED": "1",
        }
        unknown = ("PYTHONPATH", "HF_TOKEN")  # to a Space
        environment = {key: value for key, value in os.environ.items() if key not in unknown}
        self._process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=folder,
            env=environment | settings | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.log.append(line)
            if line.startswith("PneumoCAM: http"):
                self.stage = "RUNNING"
        self.stage = "RUNTIME_ERROR"

    def stop(self) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.communicate(timeout=30)


@dataclass
class Repository:
    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    main: str = ""
    hardware: str | None = None  # this and what follows: of a Space
    variables: dict[str, str] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: ["NO_APP_FILE"])  # told one a poll, the last from then on
    running: str = ""  # the commit that `stages` are about until the last of them
    process: Process | None = None

    def stage(self) -> str:
        if len(self.stages) > 1:
            return self.stages.pop(0)
        self.running = self.main
        return self.process.stage if self.process else self.stages[0]

    def commit(self, files: Files) -> str:
        digest = hashlib.sha1(self.main.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        self.main = digest.hexdigest()
        self.commits[self.main] = files
        return self.main

    def resolve(self, revision: str) -> str:
        revision = unquote(revision)
        return {"main": self.main, **self.tags}.get(revision, revision)


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)  # a Space's name begins with spaces/
    course: list[str] = field(default_factory=lambda: ["BUILDING", "RUNNING"])  # the stages of a Space that is built
    home: Path | None = None  # a folder: Spaces are run there, and the last stage is that of their process
    paid: bool = True  # the account; on one that is not, Spaces are on ZeroGPU or not at all
    large: Files = field(default_factory=dict)  # by SHA-256
    elsewhere: str = ""  # the origin to which a static Space's large files are redirected
    requests: list[str] = field(default_factory=list)  # method and path
    failures: dict[str, Response] = field(default_factory=dict)  # part of a path -> what is answered
    garbled: str = ""  # a file: zeros are sent in place of its content
    cut: int = 0  # bytes of a file that are announced and never sent
    hangs: str = ""  # part of a request's method and path: it waits until `released`
    released: threading.Event = field(default_factory=threading.Event)
    server: uvicorn.Server | None = None
    thread: threading.Thread | None = None

    def add(self, name: str, folder: Path, *revisions: str) -> str:
        """Commit a folder, to be found under these names; returns the commit."""
        repository = self.repositories.setdefault(name, Repository(private=False))
        before = repository.main
        commit = repository.commit({path.name: path.read_bytes() for path in folder.iterdir()})
        repository.tags |= {revision: commit for revision in revisions if revision != "main"}
        repository.main = commit if "main" in revisions else before
        return commit

    def hang(self, request: str = "") -> None:
        self.hangs = request
        self.released.clear()

    def fail(self, path: str, status: int = 500) -> None:
        headers = {"X-Error-Code": "RevisionNotFound"} if status == 404 else {}
        self.failures = {path: Response(b"", status, headers)}

    def heal(self) -> None:
        """End all failures, and wait for the downloads that were held up."""
        self.failures, self.garbled, self.cut = {}, "", 0
        self.released.set()
        for thread in threading.enumerate():
            if thread.name == "pneumocam-download":
                thread.join(60)

    def close(self) -> None:
        """Answer no more."""
        assert self.server
        assert self.thread
        self.heal()
        huggingface_hub.close_session()
        self.server.should_exit = True
        self.thread.join()

    def build(self, space: Repository) -> None:
        """Bring a Space to run what it holds, as the Hub does after a commit, a new variable and a restart."""
        files = space.commits[space.main]
        if "app.py" not in files:
            return
        space.stages = list(self.course)
        if self.home:
            self.stop(space)
            variables = {"HF_ENDPOINT": self.url, **space.variables}
            space.process = Process(files, Path(mkdtemp(dir=self.home)), variables)

    def stop(self, space: Repository) -> None:
        if space.process:
            space.process.stop()
            space.process = None


class Failing:
    """The Hub's API, recorded, with the failures that are asked for."""

    def __init__(self, app: ASGIApp, hub: Hub) -> None:
        self.app, self.hub = app, hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub, path = self.hub, scope["raw_path"].decode()
        line = f"{scope['method']} {path}"
        hub.requests.append(line)
        if hub.hangs in line:
            await asyncio.to_thread(hub.released.wait)
        failure = next((answer for part, answer in hub.failures.items() if part in path), None)

        async def changed(message: Message) -> None:
            body = message.get("body", b"")
            if hub.garbled and path.endswith(hub.garbled):
                body = bytes(len(body))
            if hub.cut and "/resolve/" in path and scope["method"] == "GET":
                body = body[: -hub.cut]
            await send({**message, "body": body} if message["type"] == "http.response.body" else message)

        # A revision may have slashes, which only the raw path tells from those between parts.
        await (failure or self.app)({**scope, "path": path}, receive, changed)


class RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} | ({"X-Repo-Commit": commit} if commit else {})
        self.response = JSONResponse({"error": message}, status, headers)


def application(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(RefusalError)
    async def refuse(_: Request, refusal: RefusalError) -> Response:
        return refusal.response

    def role(request: Request) -> str | None:
        return TOKENS.get(request.headers.get("authorization", "").removeprefix("Bearer "))

    def writable(request: Request) -> None:
        if role(request) != "write":
            raise RefusalError(403, message="This token cannot write.")

    def repository(request: Request, owner: str, name: str, kind: Kind = "models") -> Repository:
        found = hub.repositories.get(f"spaces/{owner}/{name}" if kind == "spaces" else f"{owner}/{name}")
        if found is None or (found.private and role(request) is None):
            raise RefusalError(404, "RepoNotFound")
        return found

    def commit_of(found: Repository, revision: str) -> str:
        commit = found.resolve(revision)
        if commit not in found.commits:
            raise RefusalError(404, "RevisionNotFound")
        return commit

    @app.get("/api/whoami-v2")
    def whoami(request: Request) -> dict[str, Any]:
        if role(request) is None:
            raise RefusalError(401, message="Invalid username or password.")
        token = {"displayName": "test", "role": role(request)}
        return {"type": "user", "name": "lung", "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        writable(request)
        wish = await request.json()
        space = wish.get("type") == "space"
        name = f"{'spaces/' if space else ''}{wish['organization'] or 'lung'}/{wish['name']}"
        answer = {"url": f"{hub.url}/{name}"}
        if space and not hub.paid and wish.get("hardware") != "zero-a10g":
            raise RefusalError(402, message="Gradio Spaces on cpu-basic require a paid plan.")
        if name in hub.repositories:
            return JSONResponse(answer, 409)
        made = Repository(wish.get("visibility") == "private", hardware=wish.get("hardware"))
        made.commit({".gitattributes": "".join(f"*{x} filter=lfs\n" for x in LARGE).encode()})
        hub.repositories[name] = made
        return JSONResponse(answer)

    @app.post("/api/validate-yaml")
    def validate() -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{revision}")
    def info(request: Request, kind: Kind, owner: str, name: str, revision: str = "main") -> dict[str, Any]:
        found = repository(request, owner, name, kind)
        commit = commit_of(found, revision)
        siblings = [{"rfilename": file} for file in found.commits[commit]]
        static = f"{hub.url}/static/{owner}/{name}" if "files.js" in found.commits[commit] else None
        host = found.process.url if found.process else static
        facts = {"id": f"{owner}/{name}", "sha": commit, "private": found.private, "siblings": siblings, "tags": []}
        return facts | ({"host": host} if kind == "spaces" else {})

    @app.get("/api/{kind}/{owner}/{name}/refs")
    def refs(request: Request, kind: Kind, owner: str, name: str) -> dict[str, Any]:
        found = repository(request, owner, name, kind)
        tags = [{"name": x, "ref": f"refs/tags/{x}", "targetCommit": commit} for x, commit in found.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.main}
        return {"branches": [main], "tags": tags, "converts": []}

    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    def tree(request: Request, kind: Kind, owner: str, name: str, revision: str) -> list[dict[str, Any]]:
        found = repository(request, owner, name, kind)
        return [entry(file, body) for file, body in found.commits[commit_of(found, revision)].items()]

    @app.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request, kind: Kind, owner: str, name: str, revision: str) -> dict[str, Any]:
        writable(request)
        found = repository(request, owner, name, kind)
        there = found.commits[commit_of(found, revision)]
        paths = [file["path"] for file in (await request.json())["files"]]
        return {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": object_id(path, there[path]) if path in there else None,
                }
                for path in paths
            ]
        }

    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    @app.post("/spaces/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(request: Request) -> dict[str, Any]:
        writable(request)
        objects = (await request.json())["objects"]
        upload = [
            x if x["oid"] in hub.large else x | {"actions": {"upload": {"href": f"{hub.url}/large/{x['oid']}"}}}
            for x in objects
        ]
        return {"transfer": "basic", "objects": upload}

    @app.put("/large/{digest}")
    async def put(request: Request, digest: str) -> None:
        body = await request.body()
        if hashlib.sha256(body).hexdigest() != digest:
            raise RefusalError(400, message="Not what was announced.")
        hub.large[digest] = body

    @app.post("/api/{kind}/{owner}/{name}/commit/main")
    async def commit(request: Request, kind: Kind, owner: str, name: str) -> dict[str, Any]:
        writable(request)
        found = repository(request, owner, name, kind)
        files = dict(found.commits[found.main])
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit", found.main) != found.main:
                raise RefusalError(412, message="Another commit came in between.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        made = found.commit(files)
        if kind == "spaces":
            hub.build(found)
        return {"commitOid": made, "commitUrl": f"{hub.url}/{owner}/{name}/commit/{made}", "success": True}

    @app.post("/api/models/{owner}/{name}/tag/{revision}")
    async def tag(request: Request, owner: str, name: str, revision: str) -> None:
        writable(request)
        found = repository(request, owner, name)
        wanted = (await request.json())["tag"]
        if wanted in found.tags:
            raise RefusalError(409, message="The tag exists.")
        found.tags[wanted] = commit_of(found, revision)

    @app.get("/api/spaces/{owner}/{name}/variables")
    def variables(request: Request, owner: str, name: str) -> dict[str, Any]:
        found = repository(request, owner, name, "spaces")
        return {key: {"value": value} for key, value in found.variables.items()}

    @app.post("/api/spaces/{owner}/{name}/variables")
    async def set_variable(request: Request, owner: str, name: str) -> dict[str, Any]:
        writable(request)
        found = repository(request, owner, name, "spaces")
        wish = await request.json()
        found.variables[wish["key"]] = wish["value"]
        hub.build(found)
        return variables(request, owner, name)

    @app.get("/api/spaces/{owner}/{name}/runtime")
    def runtime(request: Request, owner: str, name: str) -> dict[str, Any]:
        found = repository(request, owner, name, "spaces")
        stage = found.stage()
        if stage.endswith("ERROR"):
            log = "".join(found.process.log[-20:]) if found.process else ""
            return {"stage": stage, "errorMessage": f"Exit code: 1. {log}".strip()}
        return {"stage": stage, "sha": found.running} if stage == "RUNNING" else {"stage": stage}

    @app.post("/api/spaces/{owner}/{name}/restart")
    def restart(request: Request, owner: str, name: str) -> dict[str, Any]:
        writable(request)
        found = repository(request, owner, name, "spaces")
        hub.build(found)
        return runtime(request, owner, name)

    @app.get("/static/{owner}/{name}/{path:path}")
    def static(request: Request, owner: str, name: str, path: str) -> Response:
        found = hub.repositories[f"spaces/{owner}/{name}"]
        if hub.elsewhere and path.endswith(".bin") and not str(request.url).startswith(hub.elsewhere):
            return RedirectResponse(f"{hub.elsewhere}/static/{owner}/{name}/{path}")
        body = found.commits[found.main].get(path)
        return Response(body, 200 if body is not None else 404)

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def download(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
        found = repository(request, owner, name)
        commit = commit_of(found, revision)
        path = unquote(path)
        body = found.commits[commit].get(path)
        if body is None:
            raise RefusalError(404, "EntryNotFound", commit=commit)
        headers = {"ETag": f'"{object_id(path, body)}"', "X-Repo-Commit": commit}
        return Response(body, headers=headers, media_type="application/octet-stream")

    return app


def object_id(path: str, body: bytes) -> str:
    """A large file's SHA-256, another's Git hash."""
    if path.endswith(LARGE):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def entry(path: str, body: bytes) -> dict[str, Any]:
    facts = {"type": "file", "path": path, "size": len(body), "oid": object_id(path, body)}
    large = {"oid": facts["oid"], "size": len(body), "pointerSize": 130}
    return facts | {"lfs": large} if path.endswith(LARGE) else facts


@contextmanager
def serve() -> Iterator[Hub]:
    """An empty Hub that answers until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))  # requests wait in its queue until the server has started
    hub = Hub(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    hub.released.set()
    app = Failing(application(hub), hub)
    hub.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off"))
    hub.thread = threading.Thread(target=hub.server.run, kwargs={"sockets": [listener]})
    hub.thread.start()
    try:
        yield hub
    finally:
        for repository in hub.repositories.values():
            hub.stop(repository)
        hub.close()
        listener.close()
