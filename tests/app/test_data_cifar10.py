import hashlib
import io
import pickle
import socket
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from colourize import data
from colourize.data import cifar10
from colourize.files import UserError

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the official files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def dump(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2, fix_imports=True).dump(value)
    return buffer.getvalue()


def batch(seed, count=40):
    """A batch as in the official layout, each image's class cycling through the ten."""
    pixels = np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)
    return {b"data": pixels, b"labels": [index % 10 for index in range(count)], b"batch_label": b"a batch"}


@pytest.fixture(scope="module")
def contents():
    return {name: dump(batch(seed)) for seed, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path, contents):
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def packed(contents, folder="cifar-10-batches-py", extra=()):
    """An archive as the official one, with any extra members first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def assert_is_horses(split):
    expected = [batch(seed)[b"data"][7::10].reshape(-1, 3, 32, 32) for seed in range(6)]
    assert np.array_equal(split.train.tensor.numpy(), np.concatenate(expected[:5]))
    assert np.array_equal(split.validation.tensor.numpy(), expected[5])
    assert split.name == "cifar10 horse"


def test_reads_the_folder_and_its_parent(folder):
    assert_is_horses(data.load("cifar10", data_dir=folder))
    assert_is_horses(data.load("cifar10", data_dir=str(folder.parent)))


def test_reads_the_archive(tmp_path, contents):
    (tmp_path / "cifar.tar.gz").write_bytes(packed(contents))
    assert_is_horses(data.load("cifar10", data_dir=tmp_path / "cifar.tar.gz"))
    assert [path.name for path in tmp_path.iterdir()] == ["cifar.tar.gz"]  # nothing is unpacked


def test_reads_other_classes(folder):
    split = data.load("cifar10", data_dir=folder, class_name="airplane", limit=3)
    assert np.array_equal(split.train.tensor.numpy().reshape(3, -1), batch(0)[b"data"][0:30:10])
    assert len(split.validation) == 3


def test_unknown_classes_and_sizes_are_named(folder):
    with pytest.raises(UserError, match=r"unknown class 'zebra'; .* airplane, .* horse, ship, truck"):
        data.load("cifar10", data_dir=folder, class_name="zebra")
    with pytest.raises(UserError, match=r"are 32 × 32, got size 64"):
        data.load("cifar10", data_dir=folder, size=64)


def test_missing_places_and_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file or directory"):
        data.load("cifar10", data_dir=tmp_path / "nowhere")
    (folder / "data_batch_3").unlink()
    with pytest.raises(
        UserError, match=r"lacks data_batch_3: give the folder cifar-10-batches-py, its parent"
    ):
        data.load("cifar10", data_dir=folder)


def hostile(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    return Hostile()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "pickle data was truncated"),
        (b"no pickle", "not a pickle"),
        (dump([1, 2]), "is not a batch of CIFAR-10"),
        (dump({b"data": 1}), "is not a batch of CIFAR-10"),
        (dump({b"data": np.zeros((4, 3072), np.uint8), b"labels": [7] * 3}), "for 3 images"),
        (dump({b"data": np.zeros((4, 3072), np.float32), b"labels": [7] * 4}), "float32"),
        (dump({b"data": np.zeros((4, 1024), np.uint8), b"labels": [7] * 4}), r"\(4, 1024\)"),
        (dump({b"data": np.zeros((4, 3072), np.uint8), b"labels": b"seven"}), "is not a batch of CIFAR-10"),
    ],
    ids=["empty", "text", "list", "number", "labels", "floats", "shape", "words"],
)
def test_bad_batches_are_named(folder, content, words):
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match=rf"data_batch_2.*({words})"):
        data.load("cifar10", data_dir=folder)


def test_a_truncated_batch_is_named(folder, contents):
    (folder / "test_batch").write_bytes(contents["test_batch"][:-1000])
    with pytest.raises(UserError, match=r"cannot read .*test_batch: pickle data was truncated"):
        data.load("cifar10", data_dir=folder)


def test_a_hostile_batch_runs_nothing(folder, tmp_path):
    (folder / "data_batch_1").write_bytes(dump({b"data": hostile(tmp_path)}))
    with pytest.raises(
        UserError, match=r"data_batch_1: it asks for .*exec, and only numpy arrays are admitted"
    ):
        data.load("cifar10", data_dir=folder)
    assert not (tmp_path / "ran").exists()


def test_a_class_without_images_is_named(folder):
    (folder / "test_batch").write_bytes(dump({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}))
    with pytest.raises(UserError, match=r"holds 20 training and 0 test images of horse"):
        data.load("cifar10", data_dir=folder)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_archive_is_named(tmp_path, contents, keep):
    archive = packed(contents)
    (tmp_path / "cifar.tar.gz").write_bytes(archive[: int(len(archive) * keep)])
    with pytest.raises(UserError, match=r"cannot read .*cifar\.tar\.gz: .*(end of data|ended before)"):
        data.load("cifar10", data_dir=tmp_path / "cifar.tar.gz")


def test_damaged_archives_are_read_or_named(tmp_path, contents):
    archive, random = packed(contents), np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(archive)
        damaged[random.integers(len(archive))] ^= 1 << random.integers(8)
        (tmp_path / "cifar.tar.gz").write_bytes(damaged)
        try:
            split = data.load("cifar10", data_dir=tmp_path / "cifar.tar.gz")
        except UserError as error:
            assert str(tmp_path / "cifar.tar.gz") in str(error)
        else:
            assert len(split.train) == 20


def test_something_else_is_not_an_archive(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(UserError, match=r"cannot read .*cifar\.tar\.gz: "):
        data.load("cifar10", data_dir=tmp_path / "cifar.tar.gz")


def test_a_hostile_archive_writes_nothing(tmp_path, contents):
    outside = tarfile.TarInfo("../../outside")
    outside.size = 4
    link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cifar.tar.gz").write_bytes(packed(contents, extra=[(outside, b"evil"), (link, b"")]))
    assert_is_horses(data.load("cifar10", data_dir=tmp_path / "in" / "cifar.tar.gz"))
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "cifar.tar.gz"]


@pytest.fixture
def server(monkeypatch, tmp_path, contents):
    """Serves a small archive in place of the official one: `answer` is sent, `requests` are what came."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(server.answer)

        def log_message(self, *_):
            pass

    archive = packed(contents)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.status, server.requests = archive, 200, []
    monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive).hexdigest())
    monkeypatch.setenv("COLOURIZE_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloads_once(server, tmp_path, capsys):
    for _ in range(2):
        assert_is_horses(data.load("cifar10"))
    assert capsys.readouterr().out == ""  # where a command may print JSON
    assert server.requests == ["/cifar-10-python.tar.gz"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("fault", ["damaged", "cut short"])
def test_a_bad_download_is_not_kept_and_can_be_repeated(server, tmp_path, fault):
    archive = server.answer
    server.answer = archive[:-1] + b"!" if fault == "damaged" else archive[:-1000]
    with pytest.raises(
        UserError, match=r"the download of http://127\.0\.0\.1.* is incomplete or damaged: MD5"
    ):
        data.load("cifar10")
    assert list((tmp_path / "cache").iterdir()) == []
    server.answer = archive
    assert_is_horses(data.load("cifar10"))


def test_a_refused_download_is_said(server, tmp_path):
    server.status = 404
    with pytest.raises(
        UserError, match=r"cannot download http://.*: HTTP Error 404: .*; with a copy at hand, give"
    ):
        data.load("cifar10")
    assert list((tmp_path / "cache").iterdir()) == []


def test_being_offline_is_said(monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            cifar10, "URL", f"http://127.0.0.1:{unused.getsockname()[1]}/cifar-10-python.tar.gz"
        )
    monkeypatch.setenv("COLOURIZE_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"cannot download .*refused.*; with a copy at hand, give .* --data-dir"
    ):
        data.load("cifar10")
    assert list(tmp_path.iterdir()) == []


def test_the_official_address_and_checksum():
    assert cifar10.URL == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert cifar10.MD5 == "c58f30108f718f92721af3b95e74349a"


def test_real_horses(shared_data):
    split = data.load("cifar10", data_dir=shared_data)
    assert split.train.tensor.shape == (5000, 3, 32, 32)
    assert split.validation.tensor.shape == (1000, 3, 32, 32)
    means = split.train.tensor.float().mean(dim=(0, 2, 3))
    assert torch.allclose(means, torch.tensor([127.8, 122.2, 106.4]), atol=0.5)


def test_real_images_of_another_class(shared_data):
    split = data.load("cifar10", data_dir=shared_data / "cifar-10-batches-py", class_name="ship")
    assert (len(split.train), len(split.validation)) == (100, 20)
