"""The page as it is served: over HTTP, and in a browser where there is one."""

import functools
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image
from test_conversion import HOSTILE, encoded, make_converter

from colourize import web
from colourize.data import photos
from colourize.files import UserError

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio, of the extra [web], is not installed"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="chromium, or playwright to drive it, is not installed",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page with two runs."""
    folder = tmp_path_factory.mktemp("serve")
    converters = [
        make_converter(folder / "tint"),
        make_converter(folder / "large", "enlarge2", "enlarger"),
    ]
    with web.served(converters, port=0) as address:
        yield address


def request(address, path, method="GET", body=None, headers=None):
    """Status and content; the path goes out as it is, dots and all."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def upload(address, name, content):
    boundary = "b0undary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return request(address, "/gradio_api/upload", "POST", body, kind)


def convert(address, file):
    """What the queue answers when asked, as the page asks, to convert an uploaded file."""
    config = json.loads(request(address, "/config")[1])
    choice = next(c["props"]["choices"][0][1] for c in config["components"] if c["type"] == "radio")
    number = config["dependencies"][0]["id"]
    body = json.dumps({"data": [choice, file], "fn_index": number, "session_hash": "s1", "event_data": None})
    status, content = request(address, "/gradio_api/queue/join", "POST", body, {"Content-Type": "application/json"})
    assert status == 200, content
    events = request(address, "/gradio_api/queue/data?session_hash=s1")[1].decode().split("\n\n")
    return next(e for e in map(json.loads, (e.removeprefix("data: ") for e in events if e)) if "output" in e)


@needs_gradio
def test_an_upload_is_converted_and_comes_back(address):
    status, content = upload(address, "a.png", encoded())
    assert status == 200
    (path,) = json.loads(content)
    event = convert(address, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert event["success"]
    said, _, download = event["output"]["data"]
    assert "a-colour.png, 20 × 12" in str(said)
    status, png = request(address, "/gradio_api/file=" + quote(download["value"]["path"]))
    assert status == 200
    with Image.open(io.BytesIO(png)) as made:
        assert made.size == (20, 12)


@needs_gradio
@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/x", __file__])
def test_no_file_of_the_machine_can_be_converted(address, path):
    for entry in ({"path": path}, {"path": "x", "url": path}):
        event = convert(address, {**entry, "meta": {"_type": "gradio.FileData"}})
        assert not event["success"]
        assert "root:" not in json.dumps(event)


@needs_gradio
def test_nothing_is_fetched_for_anybody(address, monkeypatch):
    """Gradio would download from any public address that a request names."""
    asked = []

    async def get(url, *_, **__):
        asked.append(url)
        raise OSError

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_get", get)
    event = convert(address, {"path": "http://example.org/a.png", "meta": {"_type": "gradio.FileData"}})
    assert not event["success"] and "none from an address" in event["output"]["error"]
    assert not asked


@needs_gradio
@pytest.mark.parametrize(
    "path",
    [
        *("file=/etc/passwd", "file=../../../../../etc/passwd", "file=%2Fetc%2Fpasswd", "file/etc/passwd"),
        *("file=/proc/self/environ", "file=http://127.0.0.1:1/", "proxy=http://127.0.0.1:1/", f"file={__file__}"),
    ],
)
def test_no_file_of_the_machine_is_served(address, path):
    for prefix in ("/gradio_api/", "/", "/assets/../../gradio_api/", "/static/../"):
        status, content = request(address, prefix + path)
        assert status in (403, 404) and b"root:" not in content
    path_of_package = Path(importlib.util.find_spec("gradio").origin)
    assert request(address, f"/assets/../../../{path_of_package.name}")[0] == 404


@needs_gradio
def test_uploads_are_bounded_and_other_names_refused(address):
    assert upload(address, "a.png", bytes(web.MAX_BYTES + 1))[0] == 413
    assert request(address, "/", headers={"Host": "evil.example"})[0] == 421
    status, content = upload(address, "../../../../tmp/evil.png", encoded())
    assert status != 200 or (".." not in json.loads(content)[0] and "colourize-" in json.loads(content)[0])


@needs_gradio
def test_nobody_is_told_and_nobody_else_can_connect(address):
    assert urlsplit(address).hostname == "127.0.0.1"
    config = json.loads(request(address, "/config")[1])
    assert not config.get("analytics_enabled") and not config.get("is_space")
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", urlsplit(address).port)) != 0


@needs_gradio
def test_a_port_that_is_taken_is_named(address):
    port = urlsplit(address).port
    words = f"127.0.0.1:{port}: Address already in use.*--port"
    with pytest.raises(UserError, match=words), web.served([SimpleNamespace(title="x")], port=port):
        pass


@needs_gradio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_removes_the_pictures(tmp_path, number):
    make_converter(tmp_path / "run")
    command = [sys.executable, "-m", "colourize", "serve", str(tmp_path / "run"), "--port", "0"]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    address = re.search(r"http://\S+", server.stdout.readline())[0]
    assert upload(address, "a.png", encoded())[0] == 200
    assert list((tmp_path / "temporary").rglob("a.png"))
    server.send_signal(number)
    assert server.communicate(timeout=60)[0] == "Closed.\n"
    assert server.returncode == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_missing_gradio_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gradio.*\[web\]"), web.served([]):
        pass


@pytest.fixture
def browser_page(address):
    """The page in a headless Chromium, and the addresses that it asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 860})
        page.set_default_timeout(60_000)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#picture input[type=file]", state="attached")
        yield page, asked
        browser.close()


@needs_gradio
@needs_browser
def test_in_a_browser(browser_page, address, tmp_path):
    page, asked = browser_page
    send = functools.partial(send_file, page, tmp_path)
    coffee = encoded("JPEG", Image.fromarray(photos.photograph("coffee")))
    assert "coffee-colour.png, 600 × 400" in send("coffee.jpg", coffee)
    page.wait_for_selector("#slider img")
    with page.expect_download() as downloaded:
        page.click("#png")
    assert downloaded.value.suggested_filename == "coffee-colour.png"
    with Image.open(downloaded.value.path()) as made:
        assert (made.format, made.size) == ("PNG", (600, 400))
    for kind in ("truncated", "bomb", "text", "svg"):
        said = send(f"{kind}.png", HOSTILE[kind][0])
        assert said.startswith(f"cannot read {kind}.png: ")
    assert "rocket-colour.png" in send("rocket.png", encoded("PNG", Image.fromarray(photos.photograph("rocket"))))
    ours = tuple(f"{scheme}{urlsplit(address).netloc}/" for scheme in ("http://", "blob:http://"))
    assert [url for url in asked if not url.startswith((*ours, "data:"))] == []


@needs_gradio
@needs_browser
def test_several_in_a_browser(browser_page, tmp_path):
    page, _ = browser_page
    page.get_by_role("tab", name="Several").click()
    names = ["a.png", "b.png", "text.png"]
    for name in names:
        (tmp_path / name).write_bytes(HOSTILE["text"][0] if name == "text.png" else encoded())
    page.set_input_files("#pictures input[type=file]", [tmp_path / name for name in names])
    page.wait_for_selector("#said-of-all .done")
    assert "2 of 3 done" in page.inner_text("#said-of-all")
    assert "cannot read text.png: not a picture" in page.inner_text("#said-of-all")
    with page.expect_download() as downloaded:
        page.click("#zip")
    with zipfile.ZipFile(downloaded.value.path()) as archive:
        assert archive.namelist() == ["a-colour.png", "b-colour.png"]


def send_file(page, folder, name, content):
    """Puts a file in the place of the one that is there; what the page says of it."""
    (folder / name).write_bytes(content)
    if page.locator("#picture input[type=file]").count() == 0:
        page.locator("#picture [aria-label='Clear'], #picture [aria-label='Remove this file']").first.click()
        page.wait_for_function("document.querySelector('#said').innerText.trim() === ''")
    page.set_input_files("#picture input[type=file]", folder / name)
    page.wait_for_selector("#said .done, #said .problem")
    return page.inner_text("#said").strip()
