"""Bundles from a hub: a made one on loopback, which huggingface-hub itself asks."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lipwire.engine import BundleError, open_bundle
from lipwire.engine.model.bundle import DEFAULT_BUNDLE

pytest.importorskip("huggingface_hub")
COMMIT = "c0ffee" * 6 + "abcd"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the one repository, `maker/lips`, of a hub."""
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download, hf_api

    folder = tmp_path / "maker"
    shutil.copytree(DEFAULT_BUNDLE, folder)

    class Hub(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/maker/lips/tree/"):
                tree = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT}
                    for f in sorted(folder.iterdir())
                ]
                self._answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif path.startswith("/api/models/maker/lips") and not path.endswith("v9"):
                names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                told = {"id": "maker/lips", "sha": COMMIT, "siblings": names}
                self._answer(200, json.dumps(told).encode(), Content_Type="application/json")
            elif path.startswith("/maker/lips/resolve/"):
                data = (folder / path.rpartition("/")[2]).read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self._answer(200, data, ETag=etag, X_Repo_Commit=COMMIT)
            else:
                missing = "RevisionNotFound" if "maker/lips" in path else "RepoNotFound"
                self._answer(404, b"{}", X_Error_Code=missing)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hf_api.api, "endpoint", address, raising=False)
    assert file_download  # its functions read the constants when they are called
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bundle_is_fetched_and_checked(hub: Path) -> None:
    for name in ("hf:maker/lips@v1", "hf:maker/lips"):
        opened = open_bundle(name)
        assert opened.manifest == open_bundle().manifest and opened.path != DEFAULT_BUNDLE


def test_checksums_decide_not_the_hub(hub: Path) -> None:
    file = next(file for file in hub.iterdir() if file.suffix == ".onnx")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="altered"):
        open_bundle("hf:maker/lips")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf:maker", "hf:owner/name"),
        ("hf:../x@y", "hf:owner/name|fetched"),
        ("hf:maker/none", "cannot be fetched"),
        ("hf:maker/lips@v9", "cannot be fetched"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(hub: Path, name: str, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        open_bundle(name)
    assert "\n" not in str(caught.value)
