"""What mirrors do while CIFAR-10 is fetched, and what disks do to it afterwards."""

import pickle
import shutil
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from utils import data
from utils.data import DataError, broken_files, fetch_cifar10, load_data


@pytest.fixture
def archive(tmp_path_factory, monkeypatch) -> bytes:
    """Make an archive of CIFAR-10's layout with two images a file, and let its MD5 sums be the official ones."""
    folder = tmp_path_factory.mktemp("official") / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, calculate_md5(folder / name)]

    arrays = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    for part in ("train_list", "test_list"):
        files = [write(name, arrays | {"batch_label": name}) for name, _ in getattr(CIFAR10, part)]
        monkeypatch.setattr(CIFAR10, part, files)
    meta = write("batches.meta", {"label_names": list(data.CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta[1]})
    path = shutil.make_archive(str(folder), "gztar", folder.parent)
    monkeypatch.setattr(CIFAR10, "tgz_md5", calculate_md5(path))
    return Path(path).read_bytes()


@pytest.fixture
def mirror(archive, monkeypatch):
    """Serve the archive on loopback, and return the URL of a mirror that behaves as it is named."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            fault = self.path.split("/")[1]
            if fault == "503":
                return self.send_error(503)
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive if fault == "good" else archive[:200])
            if fault == "stalls":
                self.wfile.flush()
                over.wait(10)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    with socket.socket() as unused:  # bound but not listening, so it refuses
        unused.bind(("127.0.0.1", 0))
        ports = {"refuses": unused.getsockname()[1]}
        yield lambda fault: f"http://127.0.0.1:{ports.get(fault, server.server_port)}/{fault}/{CIFAR10.filename}"
    over.set()
    server.shutdown()
    server.server_close()


FAULTS = {"stalls": "timed out", "truncated": "corrupted", "503": "503", "refuses": "refused"}  # and their answers


def test_bad_mirrors_are_passed_over_and_listed_where_none_is_good(mirror, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch_cifar10(tmp_path, tuple(map(mirror, FAULTS)), timeout=0.3)
    answers = str(caught.value).split("; ")
    assert all(expected in answer for answer, expected in zip(answers, FAULTS.values(), strict=True))
    fetch_cifar10(tmp_path, tuple(map(mirror, [*FAULTS, "good"])), timeout=0.3)
    assert broken_files(tmp_path) == []
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def no_network(mirror, monkeypatch):
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("503"),)))
    monkeypatch.setattr(data, "load_standin", lambda: "the stand-in")


@pytest.mark.usefixtures("no_network")
def test_drawn_shapes_stand_in_only_where_nothing_else_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    assert load_data() == "the stand-in"
    assert "NOT about CIFAR-10" in capsys.readouterr().out
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    with pytest.raises(DataError, match="503"):
        load_data()
    monkeypatch.setenv("S8_DATA", "Stand-in")
    assert load_data() == "the stand-in"
    monkeypatch.setenv("S8_DATA", "cifar10")
    monkeypatch.setenv("CIFAR10_ROOT", " ")
    with pytest.raises(DataError, match="503"):
        load_data()
    monkeypatch.setenv("S8_DATA", "imagenet")
    with pytest.raises(ValueError, match="S8_DATA='imagenet'"):
        load_data()


ROOTS = ("{}", ' "{}/" ', "~/my data é", "$HOME/my data é", "{}/cifar-10-batches-py", "{}/cifar-10-python.tar.gz")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ROOTS)
def test_a_folder_is_found_as_people_name_it(name, mirror, tmp_path, monkeypatch):
    root = tmp_path / "my data é"
    fetch_cifar10(root, (mirror("good"),))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR10_ROOT", name.format(root))
    assert load_data(download=False).name == "CIFAR-10"


def test_an_empty_folder_is_filled_but_not_in_smoke_mode(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("good"),)))
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(DataError, match="data_batch_1 is missing.*smoke mode"):
        patch.setenv("S8_SMOKE", "true")
        load_data()
    assert load_data().name == "CIFAR-10"


def test_a_folder_that_may_not_be_written_is_named(mirror, tmp_path):
    (tmp_path / CIFAR10.base_folder).touch()
    with pytest.raises(DataError, match=f"cannot write to '{tmp_path / CIFAR10.base_folder}'"):
        fetch_cifar10(tmp_path, (mirror("good"),))


def test_broken_files_are_named_and_extracted_again_without_the_network(mirror, tmp_path):
    fetch_cifar10(tmp_path, (mirror("good"),))
    folder = tmp_path / CIFAR10.base_folder
    (folder / "data_batch_3").write_bytes((folder / "data_batch_3").read_bytes()[:-1] + b"?")
    (folder / "batches.meta").unlink()
    assert broken_files(tmp_path) == ["data_batch_3 is damaged", "batches.meta is missing"]
    fetch_cifar10(tmp_path, (mirror("refuses"),))
    assert broken_files(tmp_path) == []
