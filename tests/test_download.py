"""What mirrors do while CIFAR-10 is fetched, and what disks do to it afterwards."""

import hashlib
import io
import pickle
import socket
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from utils import data
from utils.data import DataError, broken_files, cifar10_root, fetch_cifar10, load_cifar10, load_data


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """Make an archive of CIFAR-10's layout with two images a file, and let its MD5 sums be the official ones."""
    arrays = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]]
    files = {name: pickle.dumps(arrays | {"batch_label": name}) for name in names}
    files["batches.meta"] = pickle.dumps({"label_names": list(data.CLASSES)})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name in names[5:]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


@pytest.fixture
def mirror(archive, monkeypatch):
    """Serve the archive on loopback, and return the URL of a mirror that behaves as it is named."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            fault = self.path.split("/")[1]
            if fault == "503":
                return self.send_error(503)
            if fault == "no-http":
                return self.wfile.write(b"who is there?\r\n")
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive[::-1] if fault == "wrong" else archive if fault == "good" else archive[:200])
            if fault == "stalls":
                self.wfile.flush()
                over.wait(10)

        def log_message(self, *args):
            pass

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


FAULTS = {  # and what is reported of it
    "stalls": "timed out",
    "truncated": "corrupted",
    "wrong": "corrupted",
    "503": "503",
    "refuses": "refused",
    "no-http": "who is there",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_mirror_falls_to_the_next(fault, mirror, tmp_path):
    fetch_cifar10(tmp_path, (mirror(fault), mirror("good")), timeout=0.3)
    assert broken_files(tmp_path) == []
    assert socket.getdefaulttimeout() is None


def test_without_any_mirror_the_error_lists_what_each_answered(mirror, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch_cifar10(tmp_path, tuple(map(mirror, FAULTS)), timeout=0.3)
    answers = str(caught.value).split("; ")
    assert len(answers) == len(FAULTS)
    for answer, expected in zip(answers, FAULTS.values(), strict=True):
        assert "127.0.0.1" in answer and expected in answer


def test_without_any_mirror_comes_the_stand_in_or_the_error(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("503"),), timeout=0.3))
    monkeypatch.setattr(data, "load_standin", lambda: "the stand-in")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    assert load_data() == "the stand-in"
    assert "NOT about CIFAR-10" in capsys.readouterr().out
    monkeypatch.setenv("S8_DATA", "cifar10")
    with pytest.raises(DataError, match="503"):
        load_data()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("damage, state", [(truncate, "damaged"), (corrupt, "damaged"), (Path.unlink, "missing")])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_broken_files_are_named_and_fetched_again(name, damage, state, mirror, tmp_path, monkeypatch, capsys):
    fetch_cifar10(tmp_path, (mirror("good"),))
    (tmp_path / CIFAR10.filename).unlink()
    damage(tmp_path / CIFAR10.base_folder / name)
    assert broken_files(tmp_path) == [f"{name} is {state}"]
    with pytest.raises(DataError, match=f"{name} is {state}"):
        load_cifar10(tmp_path, download=False)
    monkeypatch.setattr(data, "fetch_cifar10", partial(fetch_cifar10, mirrors=(mirror("503"), mirror("good"))))
    assert len(load_cifar10(tmp_path).train_images) == 10
    assert f"{name} is {state}" in capsys.readouterr().out
    assert broken_files(tmp_path) == []


def test_a_partly_extracted_archive_is_extracted_again_without_the_network(mirror, tmp_path):
    fetch_cifar10(tmp_path, (mirror("good"),))
    for name in ("data_batch_5", "test_batch", "batches.meta"):
        (tmp_path / CIFAR10.base_folder / name).unlink()
    truncate(tmp_path / CIFAR10.base_folder / "data_batch_4")
    assert len(broken_files(tmp_path)) == 4
    fetch_cifar10(tmp_path, (mirror("refuses"),))
    assert broken_files(tmp_path) == []


@pytest.mark.usefixtures("cifar10")
def test_a_truncated_official_file_is_named(tmp_path):
    official = (cifar10_root() / CIFAR10.base_folder).resolve()
    copy = tmp_path / CIFAR10.base_folder
    copy.mkdir()
    for path in official.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "data_batch_2").unlink()
    (copy / "data_batch_2").write_bytes((official / "data_batch_2").read_bytes()[:-1])
    assert broken_files(tmp_path) == ["data_batch_2 is damaged"]
