"""Only what the page asks for gets past the gate."""

import asyncio

import pytest

from colourize.gate import Gate


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "page"
    (inside / "pictures").mkdir(parents=True)
    (inside / "pictures" / "a.png").write_text("picture")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "page-also").mkdir()
    (tmp_path / "page-also" / "b").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    return inside


def ask(folder, path, method="GET", host="127.0.0.1:7860", length=None, kind="http", site=None):
    """What is answered, as a status, and whether the application behind was called."""
    called, sent = [], []

    async def app(scope, receive, send):
        called.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode())] + ([] if length is None else [(b"content-length", str(length).encode())])
    headers += [] if site is None else [(b"sec-fetch-site", site)]
    gate = Gate(app, folder=folder, hosts=frozenset({"127.0.0.1", "localhost"}), max_upload=1000)
    asyncio.run(gate({"type": kind, "path": path, "method": method, "headers": headers}, None, send))
    assert kind != "http" or (b"x-frame-options", b"DENY") in sent[0]["headers"]
    return sent[0].get("status", sent[0]["type"]), bool(called)


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/assets/index-a_b.js", "/gradio_api/queue/data"])
def test_the_page_passes(folder, path):
    assert ask(folder, path) == (200, True)


def test_files_of_the_folder_alone(folder):
    def file(path):
        return ask(folder, f"/gradio_api/file={path}")

    assert file(folder / "pictures" / "a.png") == (200, True)
    assert file(folder / "pictures" / ".." / "pictures" / "a.png") == (200, True)
    secret = folder.parent / "secret"
    others = [secret, folder / ".." / "secret", folder / "link", folder.parent / "page-also" / "b"]
    others += [folder, folder / "none", "/etc/passwd", "etc/passwd", f"file://{secret}", "http://127.0.0.1/a", "a\0b"]
    assert [file(path) for path in others] == [(403, False)] * len(others)


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/file/etc/passwd", "/monitoring", "/file=/etc/passwd"),
        *("/gradio_api/stream/a/1/1/playlist-file", "/static/../../etc/passwd", "/assets/..", "/docs", "/openapi.json"),
        *("/gradio_api/vibe-code/", "/gradio_api/deep_link", "/gradio_api/run-history/records", "//etc/passwd", "/\n"),
    ],
)
def test_nothing_else(folder, path):
    assert ask(folder, path) == (404, False)
    assert ask(folder, path, "POST", length=1) == (404, False)
    assert ask(folder, path, "PUT", length=1) == (404, False)


def test_bodies_are_bounded(folder):
    upload = "/gradio_api/upload"
    assert ask(folder, upload, "POST", length=1000) == (200, True)
    assert ask(folder, upload, "POST", length=1001) == (413, False)
    assert ask(folder, upload, "POST") == (411, False)
    assert ask(folder, upload, "POST", length="-1") == (411, False)
    assert ask(folder, "/gradio_api/queue/join", "POST", length=2**20 + 1) == (413, False)


def test_other_names_and_other_protocols_are_refused(folder):
    assert ask(folder, "/", host="localhost") == (200, True)
    assert ask(folder, "/", host="evil.example:7860") == (421, False)
    assert ask(folder, "/", kind="websocket") == ("websocket.close", False)


def test_other_pages_cannot_send(folder):
    for path in ("/gradio_api/upload", "/gradio_api/queue/join"):
        assert ask(folder, path, "POST", length=1, site=b"same-origin") == (200, True)
        for site in (b"cross-site", b"same-site", b"none"):
            assert ask(folder, path, "POST", length=1, site=site) == (403, False)
    assert ask(folder, "/", site=b"cross-site") == (200, True)  # a link that leads here
