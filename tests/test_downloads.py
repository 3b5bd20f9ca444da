"""Files of published sets: read where they lie, checked, and downloaded where they do not."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import shutil
import threading

import pytest
import torch

from sdegen.data import (
    File,
    digits,
    mnist,
    sets,
    sprites,
    sprites_held_out,
)
from sdegen.data.files import EMBEDDED

# --- files ------------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 300
PUBLISHED = gzip.compress(CONTENT, mtime=1)


def md5(data):
    return hashlib.md5(data).hexdigest()


def a_file(*mirrors, content=True):
    return File("set/images.gz", md5(PUBLISHED), md5(CONTENT) if content else None, mirrors)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    return tmp_path


def put(folder, data):
    (folder / "set" / "images.gz").write_bytes(data)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_read_where_it_lies(folder):
    put(folder, PUBLISHED)
    (folder / "set" / "images.gz").chmod(0o400)
    assert a_file().read() == CONTENT
    assert files_in(folder) == [folder / "set" / "images.gz"]


def test_content_compressed_anew_is_the_same_file(folder):
    put(folder, gzip.compress(CONTENT, mtime=2))
    assert a_file().read() == CONTENT
    with pytest.raises(ValueError, match="is damaged"):
        a_file(content=False).read()


DAMAGED = {
    "truncated": PUBLISHED[:-7],
    "half": PUBLISHED[: len(PUBLISHED) // 2],
    "a bit flipped": PUBLISHED[:50] + bytes([PUBLISHED[50] ^ 1]) + PUBLISHED[51:],
    "no such block": PUBLISHED[:10] + b"\xff" + PUBLISHED[11:],
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "other content": gzip.compress(CONTENT[1:], mtime=1),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_both_checksums(folder, data):
    put(folder, data)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(folder))}.*images\.gz.*{md5(data)}, expected {md5(PUBLISHED)}"
    ):
        a_file().read()


@pytest.mark.data
def test_a_damaged_copy_of_mnist_is_not_loaded(tmp_path, monkeypatch, data_folder):
    shutil.copytree(data_folder / "mnist", tmp_path / "mnist")
    official, count = sets._MNIST["t10k-images-idx3-ubyte"][0], len(mnist().test)
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    victim = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    whole = victim.read_bytes()
    victim.write_bytes(gzip.compress(gzip.decompress(whole), 1))
    assert len(mnist().test) == count  # another header and another level: the same content
    for data in (whole[:-1], whole[:1000] + b"?" + whole[1001:]):
        victim.write_bytes(data)
        with pytest.raises(ValueError, match=f"t10k-images.*{md5(data)}, expected {official}"):
            mnist()


def test_a_damaged_copy_of_the_sprites_is_not_loaded(tmp_path, monkeypatch):
    data = (EMBEDDED / "sprites16" / "sprites16.npz").read_bytes()[:-1]
    (tmp_path / "sprites16").mkdir()
    (tmp_path / "sprites16" / "sprites16.npz").write_bytes(data)
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"{md5(data)}, expected 9e2abc760e547ad5291ddde19fe2c7d8; put the original"):
        sprites()


@pytest.mark.parametrize("named", [True, False], ids=["a folder without them", "no folder"])
def test_sprites_come_with_the_package(tmp_path, monkeypatch, named):
    if named:
        monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("SDEGEN_DATA")
    assert len(sprites_held_out()) == 309 and files_in(tmp_path) == []
    assert "CC BY 4.0" in (EMBEDDED / "README.md").read_text()


def test_a_data_folder_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"SDEGEN_DATA = .*nowhere is not a folder; .* holds mnist/train"):
        mnist()
    assert files_in(tmp_path) == []


def test_what_cannot_be_downloaded_must_be_there(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"images.gz is missing, and is not downloaded"):
        a_file().read()
    monkeypatch.delenv("SDEGEN_DATA")
    with pytest.raises(FileNotFoundError, match=r"images.gz is not downloaded; let .* SDEGEN_DATA name the folder"):
        a_file().read()


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server on this machine: the address of its root, what it serves, and what it was asked for.

    A served value is the body; or a pair of the body and the length that is announced for it.
    """
    served, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in served:
                return self.send_error(404)
            body = served[self.path]
            body, length = body if isinstance(body, tuple) else (body, len(body))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served, asked
        running.shutdown()
        thread.join()


@pytest.fixture
def pooch():
    return pytest.importorskip("pooch", reason="needs pooch")


def test_a_missing_file_is_downloaded_once(folder, server, pooch):
    root, served, asked = server
    served["/a/images.gz"] = PUBLISHED
    file = a_file(f"{root}/a/")
    assert file.read() == CONTENT and file.read() == CONTENT
    assert asked == ["/a/images.gz"]
    assert [path.read_bytes() for path in files_in(folder)] == [PUBLISHED]


def test_mirrors_are_tried_in_turn(folder, server, pooch):
    root, served, asked = server
    served["/cut/images.gz"] = (PUBLISHED[:100], len(PUBLISHED))  # the connection ends early
    served["/short/images.gz"] = PUBLISHED[:100]
    served["/corrupt/images.gz"] = DAMAGED["a bit flipped"]
    served["/good/images.gz"] = PUBLISHED
    places = ("gone", "cut", "short", "corrupt", "good", "never")
    closed = "http://127.0.0.1:1"  # nobody listens
    assert a_file(closed, *(f"{root}/{place}" for place in places)).read() == CONTENT
    assert asked == [f"/{place}/images.gz" for place in places[:-1]]
    assert [path.read_bytes() for path in files_in(folder)] == [PUBLISHED]


def test_a_failed_download_says_why_and_leaves_nothing(folder, server, pooch):
    root, served, _ = server
    corrupt = DAMAGED["a bit flipped"]
    served["/cut/images.gz"] = (PUBLISHED[:100], len(PUBLISHED))
    served["/corrupt/images.gz"] = corrupt
    with pytest.raises(ConnectionError) as caught:
        a_file(f"{root}/gone", f"{root}/cut", f"{root}/corrupt").read()
    message = str(caught.value)
    assert message.startswith("set/images.gz could not be downloaded to ")
    for part in ("/gone/images.gz: 404", "/cut/images.gz: ", "/corrupt/images.gz: ", md5(corrupt), md5(PUBLISHED)):
        assert part in message
    assert files_in(folder) == []


def test_an_interrupted_download_leaves_nothing(folder, server, pooch, monkeypatch):
    root, served, _ = server
    served["/a/images.gz"] = PUBLISHED
    whole = pooch.HTTPDownloader.__call__

    def interrupted(self, url, output_file, *args, **kwargs):
        whole(self, url, output_file, *args, **kwargs)
        assert len(files_in(folder)) == 1 and not (folder / "set" / "images.gz").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        a_file(f"{root}/a").read()
    assert files_in(folder) == []


def test_without_a_data_folder_the_cache_of_the_user_is_used(tmp_path, server, pooch, monkeypatch):
    root, served, asked = server
    served["/a/images.gz"] = PUBLISHED
    monkeypatch.delenv("SDEGEN_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    assert a_file(f"{root}/a").read() == CONTENT and a_file(f"{root}/a").read() == CONTENT
    assert files_in(tmp_path) == [tmp_path / "sdegen" / "set" / "images.gz"] and len(asked) == 1


@pytest.mark.data
def test_mnist_is_downloaded_from_the_second_mirror(tmp_path, server, pooch, monkeypatch, data_folder):
    root, served, asked = server
    published = mnist()
    for path in (data_folder / "mnist").iterdir():
        served[f"/second/{path.name}"] = path.read_bytes()
    served["/first/train-images-idx3-ubyte.gz"] = served["/second/train-images-idx3-ubyte.gz"][:10_000]
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    monkeypatch.setattr(sets, "_MNIST_MIRRORS", (f"{root}/first/", f"{root}/second/"))
    data = mnist()
    assert len(asked) == 8 and all(torch.equal(a.x, b.x) for a, b in zip(data, published, strict=True))
    assert sorted(p.name for p in files_in(tmp_path)) == sorted(p.name for p in (data_folder / "mnist").iterdir())


def without(monkeypatch, package):
    """As if a package were not installed."""

    def missing(name):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        raise AssertionError(f"{name} was not expected")

    monkeypatch.setattr("sdegen.data.files.import_module", missing)


@pytest.mark.parametrize(
    ("package", "pip", "call"),
    [
        ("pooch", "pooch", lambda path: a_file("http://127.0.0.1:1").read()),
        ("sklearn", "scikit-learn", lambda path: digits()),
    ],
    ids=["pooch", "scikit-learn"],
)
def test_a_missing_package_is_named_with_its_command(folder, monkeypatch, package, pip, call):
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=rf"^[^\n]* needs {pip}: pip install {pip}$"):
        call(folder)
