"""Argilla's SDK loads a dataset of ours and writes it anew: `python argilla_sdk.py FOLDER OUTPUT`, in `.venv-argilla`.

Argilla's own server needs Elasticsearch. In its place is a store that keeps what the SDK posts and gives it back: all
that is tested here is the SDK, which reads, checks and converts, and not the server.
"""

import json
import re
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

NOW = "2026-01-01T00:00:00"
ME = {"id": str(uuid.uuid4()), "username": "owner", "first_name": "owner", "role": "owner"}
WORKSPACE = {"id": str(uuid.uuid4()), "name": "default", "inserted_at": NOW, "updated_at": NOW}
PARTS = ("fields", "questions", "vectors-settings", "metadata-properties", "records")


class Store(BaseHTTPRequestHandler):
    """The few paths that loading and writing a dataset asks for."""

    datasets: ClassVar[dict[str, dict]] = {}
    parts: ClassVar[dict[tuple[str, str], list[dict]]] = {}

    def answer(self, body: dict, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def act(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        path = self.path.partition("?")[0].removeprefix("/api/v1")
        self.answer(self.result(self.command, path.replace("/me/datasets/", "/datasets/"), body))

    do_GET = do_POST = do_PUT = do_PATCH = act  # noqa: N815 - the names of http.server

    def result(self, method: str, path: str, body: dict) -> dict:
        if path == "/me":
            return ME
        if path == "/me/workspaces":
            return {"items": [WORKSPACE]}
        if path == "/me/datasets":
            return {"items": list(self.datasets.values())}
        if path.startswith("/workspaces/"):
            return WORKSPACE
        if (method, path) == ("POST", "/datasets"):
            made = body | {"id": str(uuid.uuid4()), "status": "draft", "inserted_at": NOW, "updated_at": NOW}
            return self.datasets.setdefault(made["id"], made)
        _, _, identity, *rest = path.split("/")
        if rest == ["publish"]:
            self.datasets[identity]["status"] = "ready"
        elif rest and rest[0] in PARTS:
            return self.part(method, identity, rest[0], body)
        elif method == "PATCH":
            self.datasets[identity] |= {key: value for key, value in body.items() if value is not None}
        return self.datasets[identity]

    def part(self, method: str, dataset: str, name: str, body: dict) -> dict:
        kept = self.parts.setdefault((dataset, name), [])
        if method == "GET":
            offset = int((re.findall(r"offset=(\d+)", self.path) or ["0"])[0])
            return {"items": kept[offset:] if name == "records" else kept}
        new = body["items"] if name == "records" else [body]
        for one in new:
            one |= {"id": str(uuid.uuid4()), "dataset_id": dataset, "inserted_at": NOW, "updated_at": NOW}
            kept.append(one)
        return {"items": new, "updated_item_ids": []} if name == "records" else new[0]

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main(folder: str, output: str) -> None:
    """Loads, and writes anew."""
    import argilla as rg

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = rg.Argilla(api_url=f"http://127.0.0.1:{server.server_port}", api_key="any")
    dataset = rg.Dataset.from_disk(folder, workspace="default", client=client)
    dataset.to_disk(output)
    settings = dataset.settings.serialize()
    print(json.dumps({name: [one["name"] for one in settings[name]] for name in ("fields", "questions", "metadata")}))
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
