"""Checkpoints copied to a Google Drive and brought back from it."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from tests.small import identical, small_model
from utils.checkpoint import resume, save_checkpoint


@pytest.fixture
def drive(tmp_path, monkeypatch) -> Path:
    """Make a folder and name it in S8_DRIVE."""
    folder = tmp_path / "drive"
    folder.mkdir()
    monkeypatch.setenv("S8_DRIVE", str(folder))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_drive_holds_the_last_two_checkpoints_and_brings_the_last_back(drive, tmp_path, capsys):
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()
    for epochs in range(3):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
        assert names(drive) == [f"full-epoch{kept:03}.pt" for kept in range(max(0, epochs - 1), epochs + 1)]
    content = path.read_bytes()
    path.unlink()
    again = small_model()
    assert len(resume(path, {}, model=again)) == 2
    assert identical(model.state_dict(), again.state_dict())
    assert path.read_bytes() == content
    assert f"{drive}/full-epoch???.pt" in capsys.readouterr().out


@pytest.mark.parametrize("uploaded", [0, 1000])
def test_an_upload_that_was_cut_short_is_passed_over(drive, tmp_path, uploaded):
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()
    for epochs in (1, 2):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
    os.truncate(drive / "full-epoch002.pt", uploaded)
    path.unlink()
    assert len(resume(path, {}, model=model)) == 1
    os.truncate(drive / "full-epoch001.pt", uploaded)
    path.unlink()
    with pytest.raises(
        ValueError, match=r"damaged.*Delete .* alone to continue .* and '.*full-epoch\?\?\?.pt' and restart"
    ):
        resume(path, {}, model=model)


def test_a_local_checkpoint_goes_before_the_one_on_drive(drive, tmp_path):
    path = tmp_path / "full" / "checkpoint.pt"
    save_checkpoint(path, {}, [{}] * 2, model=small_model())
    (drive / "full-epoch005.pt").write_bytes(b"of another machine")
    assert len(resume(path, {}, model=small_model())) == 2


def test_only_earlier_copies_of_the_same_run_are_deleted(drive, tmp_path):
    (drive / ".full-epoch001.pt.123").write_bytes(b"left by a kill")
    others = ["full-epoch000 (1).pt", "full-epoch009 (1).pt", "full-epoch009.pt.1", "smoke-epoch001.pt"]
    for name in [*others, "full-epoch030.pt"]:
        torch.save([], drive / name)
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()
    for epochs in (1, 2, 2, 3):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
    assert names(drive) == sorted([*others, "full-epoch002.pt", "full-epoch003.pt", "full-epoch030.pt"])
    (drive / "full-epoch030.pt").unlink()
    path.unlink()
    assert len(resume(path, {}, model=model)) == 3  # nor are others fetched


@pytest.mark.parametrize("value", ["{}/missing", "{}/file", "~no one/drive"])
def test_a_drive_that_cannot_be_used_is_named_before_training(value, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    name = value.format(tmp_path)
    monkeypatch.setenv("S8_DRIVE", name)
    with pytest.raises(ValueError, match=f"S8_DRIVE='{name}'"):
        resume(tmp_path / "full" / "checkpoint.pt", {}, model=small_model())
    assert not (tmp_path / "full").exists() and not (tmp_path / "missing").exists()


def test_a_quoted_drive_of_the_home_folder_is_found(drive, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("S8_DRIVE", "'~/drive' ")
    resume(tmp_path / "full" / "checkpoint.pt", {}, model=small_model())
    assert names(drive) == ["full-epoch000.pt"]


def test_training_goes_on_with_one_warning_while_drive_is_gone(drive, tmp_path, recwarn):
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()
    resume(path, {}, model=model)
    drive.rename(tmp_path / "away")
    for epochs in (1, 2):
        save_checkpoint(path, {}, [{}] * epochs, model=model)
    (warning,) = recwarn
    assert str(drive) in str(warning.message) and not drive.exists()
    (tmp_path / "away").rename(drive)
    save_checkpoint(path, {}, [{}] * 3, model=model)
    assert names(drive) == ["full-epoch000.pt", "full-epoch003.pt"]


def test_a_copy_that_breaks_off_leaves_nothing_and_stops_nothing(drive, tmp_path, monkeypatch):
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()

    def fail(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.warns(UserWarning, match="Transport endpoint is not connected"):
        save_checkpoint(path, {}, [{}] * 2, model=model)
        assert len(resume(path, {}, model=model)) == 2
    assert names(drive) == []


def test_a_last_copy_that_failed_is_made_up_for_once(drive, tmp_path, monkeypatch):
    path, model = tmp_path / "full" / "checkpoint.pt", small_model()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.copyfile", Mock(side_effect=KeyboardInterrupt))
        save_checkpoint(path, {}, [{}] * 40, model=model)
    assert names(drive) == []
    assert len(resume(path, {}, model=model)) == 40
    assert names(drive) == ["full-epoch040.pt"]
    (drive / "full-epoch040.pt").chmod(0o400)
    assert len(resume(path, {}, model=model)) == 40
    assert (drive / "full-epoch040.pt").stat().st_mode & 0o777 == 0o400  # the same file


def test_what_is_deleted_leaves_no_bytes_in_the_trash(drive, tmp_path, monkeypatch):
    sizes, unlink = [], Path.unlink

    def note(file: Path, **options):
        if file.exists() and file.parent == drive:
            sizes.append(file.stat().st_size)
        unlink(file, **options)

    monkeypatch.setattr(Path, "unlink", note)
    for epochs in range(4):
        save_checkpoint(tmp_path / "full" / "checkpoint.pt", {}, [{}] * epochs, model=small_model())
    assert sizes == [0, 0]
