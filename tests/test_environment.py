"""The variables, the mode, the output folder and its lock, and the versions."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from utils import environment
from utils.environment import check_versions, choose_mode, describe_environment, lock, output_folder
from utils.files import RESULTS, WEIGHTS

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def publish(*paths):
    for path in paths:
        path.parent.mkdir()
        path.touch()


@pytest.mark.parametrize(
    "gpu, published, data, mode",
    [
        (True, (WEIGHTS, RESULTS), "CIFAR-10", "full"),
        (True, (WEIGHTS, RESULTS), "drawn shapes", "preview"),
        (False, (WEIGHTS, RESULTS), "CIFAR-10", "explain"),
        (False, (RESULTS,), "CIFAR-10", "preview"),
    ],
)
def test_the_mode_follows_from_what_is_at_hand(monkeypatch, gpu, published, data, mode):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    publish(*published)
    assert choose_mode(data)[0] == mode


@pytest.mark.parametrize(
    "variables, mode",
    [
        ({"S8_MODE": " 'Preview' "}, "preview"),
        ({"S8_MODE": "full", "S8_SMOKE": "Yes"}, "smoke"),
        ({"S8_MODE": "preview", "S8_SMOKE": "False"}, "preview"),
        ({"S8_MODE": "", "S8_SMOKE": '""'}, "explain"),
    ],
)
def test_variables_decide_the_mode(monkeypatch, variables, mode):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    publish(WEIGHTS, RESULTS)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert choose_mode("CIFAR-10")[0] == mode


@pytest.mark.parametrize(
    "name, value, data",
    [
        ("S8_MODE", "fast", "CIFAR-10"),
        ("S8_MODE", "full", "drawn shapes"),
        ("S8_MODE", "explain", "CIFAR-10"),  # without weights
        ("S8_SMOKE", "2", "CIFAR-10"),
        ("S8_MOD", "smoke", "CIFAR-10"),
    ],
)
def test_what_was_set_and_cannot_work_is_named(monkeypatch, name, value, data):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}='?{value}"):
        choose_mode(data)


def test_only_a_full_run_writes_to_images():
    folders = {mode: output_folder(mode).as_posix() for mode in environment.SIZES}
    assert folders == {"full": "images", "explain": "runs/explain", "preview": "runs/preview", "smoke": "runs/smoke"}


@pytest.mark.parametrize("folder", ["images", "models", "runs"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, folder):
    (tmp_path / folder).touch()
    with pytest.raises(OSError, match=f"cannot write to '{folder}"):
        output_folder("full")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_folder_has_one_holder_until_it_is_killed(tmp_path):
    code = "import os, pathlib, time; from utils.environment import lock; lock(pathlib.Path(os.environ['FOLDER']))"
    code += "; pid = os.fork(); print(os.getpid(), flush=True) if pid else None; time.sleep(60)"  # one worker
    options = {"cwd": REPOSITORY, "env": os.environ | {"FOLDER": str(tmp_path)}, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options) as holder:
        try:
            pid = holder.stdout.readline().strip()
            with pytest.raises(RuntimeError, match=f"in use by process {pid} on "):
                lock(tmp_path)
            holder.kill()  # but not its worker
            holder.wait()
            lock(tmp_path)
            lock(tmp_path)  # the same process may ask again
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_another_package_of_albumentations_name_is_refused(monkeypatch, tmp_path):
    check_versions()
    metadata = tmp_path / "albumentationsx-2.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: AlbumentationsX\nVersion: 2.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="2.1.0.*pip install albumentations==2.0.8"):
        check_versions()


def test_the_environment_is_described_without_git_and_without_metadata(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(environment, "PACKAGES", ("albumentations", "no-such-package"))
    facts = describe_environment(torch.device("cpu"))
    assert (facts["commit"], facts["albumentations"]) == ("unknown", "2.0.8")


def test_a_user_id_without_a_name_can_import_torchvision():
    code = "import os; os.getuid = lambda: 2**31 - 9; import utils, torchvision"
    environ = {"PATH": os.environ["PATH"]}  # neither USER nor a cache folder that torch found for this process
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environ, check=True)
