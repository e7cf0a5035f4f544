"""The notebook means what it says: its own cells are executed in smoke mode, and what they leave is looked at."""

import json
import re
import sys
from pathlib import Path
from unittest import mock

import cv2
import nbformat
import numpy as np
import pytest
import torch

from utils import plotting
from utils.files import NOTEBOOK, RESULTS
from utils.gradcam import compute_cams
from utils.transforms import CIFAR10_MEAN, CIFAR10_STD

CELLS = nbformat.read(NOTEBOOK, as_version=4).cells
CODE = [cell for cell in CELLS if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def smoke():
    """Execute the notebook as a plain script, on the CPU, where runs repeat; return its variables and what it drew."""
    variables, grids, losses = {"__name__": "notebook"}, [], []
    step, draw = torch.optim.lr_scheduler.ReduceLROnPlateau.step, plotting.plot_cam_grid
    with (
        mock.patch.dict("os.environ", {"S8_MODE": "smoke"}),
        mock.patch("torch.cuda.is_available", lambda: False),
        mock.patch.object(plotting, "plot_cam_grid", lambda *args: grids.append(args) or draw(*args)),
        mock.patch(
            "torch.optim.lr_scheduler.ReduceLROnPlateau.step",
            lambda self, metrics: losses.append(metrics) or step(self, metrics),
        ),
    ):
        for cell in CODE:
            exec(compile(cell.source, str(NOTEBOOK), "exec"), variables)
    return variables | {"drawn grids": grids, "seen losses": losses}


def normalized(images: np.ndarray) -> torch.Tensor:
    """Normalize uint8 (N, 32, 32, 3) by the definition."""
    return torch.from_numpy((images / 255 - CIFAR10_MEAN) / CIFAR10_STD).float().permute(0, 3, 1, 2)


def test_the_maps_explain_the_predicted_classes_of_the_chosen_test_images(smoke):
    chosen, model, data = smoke["chosen"], smoke["training"].ema, smoke["DATA"]
    images = normalized(data.test_images[chosen])
    with torch.no_grad():
        predicted = model(images).argmax(1)
    assert len(chosen) == 20 and not (predicted.numpy() == data.test_labels[chosen]).any()
    expected = compute_cams(model, images, predicted.tolist())
    for method, layers in expected.items():
        for layer, maps in layers.items():
            assert (smoke["cams"][method][layer] - maps).abs().mean() < 0.01  # rounding flips a ReLU here and there


def test_file_k_shows_image_k_and_its_maps_under_its_title(smoke):
    data, chosen = smoke["DATA"], smoke["chosen"].tolist()
    predicted = smoke["logits"].argmax(1)
    for position, (image, cams, title) in enumerate(smoke["drawn grids"][:20]):
        index = chosen[position]
        names = data.classes[data.test_labels[index]], data.classes[predicted[index]]
        assert title.startswith(f"Test image {index}: {names[0]}, predicted {names[1]}")
        np.testing.assert_allclose(image.permute(1, 2, 0) * 255, data.test_images[index], atol=0.01)
        assert all(
            torch.equal(cam, smoke["cams"][method][layer][position])
            for method in cams
            for layer, cam in cams[method].items()
        )
        picture = cv2.imread(str(smoke["OUT"] / f"gradcam_{position:02d}.png"))[..., ::-1]
        original = cv2.resize(data.test_images[index], (96, 96), interpolation=cv2.INTER_NEAREST)
        distance = cv2.matchTemplate(np.ascontiguousarray(picture), original, cv2.TM_SQDIFF)
        assert (distance.min() / original.size) ** 0.5 < 3  # levels, as PNGs have 64 of them


def test_the_plateau_saw_the_training_losses_and_the_ema_was_tested(smoke):
    history, recipe = smoke["history"], smoke["recipe"]
    assert smoke["seen losses"] == [row["train loss"] for row in history] and len(history) == recipe.epochs
    images = normalized(smoke["DATA"].test_images[: len(smoke["labels"])])
    with torch.no_grad():
        torch.testing.assert_close(smoke["training"].ema(images), smoke["logits"], atol=1e-2, rtol=1e-2)
    assert not torch.equal(smoke["training"].ema.conv1.weight, smoke["training"].model.conv1.weight)


def test_training_validation_and_test_images_are_apart(smoke):
    data, train, validation = smoke["DATA"], smoke["train"], smoke["validation"]
    assert not set(train) & set(validation)
    assert np.array_equal(smoke["train_batches"].dataset.images, data.train_images[train])
    assert np.array_equal(smoke["validation_batches"].dataset.images, data.train_images[validation])
    assert np.array_equal(smoke["test_batches"].dataset.images, data.test_images[: len(smoke["labels"])])


def test_the_results_are_those_of_the_run(smoke):
    results = json.loads((smoke["OUT"] / "results.json").read_text())
    correct = smoke["logits"].argmax(1) == smoke["labels"]
    assert results["config"] == smoke["CONFIG"] and results["mode"] == "smoke"
    assert results["test"]["accuracy"] == pytest.approx(100 * correct.double().mean().item())
    assert results["errors"] == (~correct).sum() and results["indices"] == smoke["chosen"].tolist()
    layer4 = smoke["measured"]["pointing"]["gradcam", "layer4"]
    assert results["trust"]["pointing"]["gradcam"]["layer4"][0] == pytest.approx(layer4.mean().item())


def test_the_committed_notebook_is_the_record_of_one_whole_run():
    outputs = [output for cell in CODE for output in cell.outputs]
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for output in outputs if output.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 5e6  # else GitHub does not show it
    indices = json.loads(RESULTS.read_text())["indices"]
    shown = re.findall(r"^Test indices: (.+)$", "\n".join(output.get("text", "") for output in outputs), re.MULTILINE)
    assert shown == [" ".join(map(str, indices))]


@pytest.mark.parametrize("there, calls", [((), ["git", "pip"]), (("S8",), ["pip"]), (("models", "utils"), ["pip"])])
def test_setup_in_colab_can_be_run_again(monkeypatch, tmp_path, there, calls):
    """A restarted runtime is back in /content, beside the clone."""

    def make_repository(folder: Path) -> None:
        for name in ("models/resnet.py", "utils/gradcam.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    if there:
        make_repository(tmp_path / "S8" if there == ("S8",) else tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torchcam" else name)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.0.7")
    commands = []

    def run(command, check, **_):
        commands.append(command)
        if command[0] == "git":
            make_repository(tmp_path / "S8")

    monkeypatch.setattr("subprocess.run", run)
    exec(CODE[0].source, {})
    assert [command[0 if command[0] == "git" else 2] for command in commands] == calls
    assert commands[-1][-2:] == ["torchcam", "albumentations==2.0.8"]
    assert Path.cwd().name == (tmp_path.name if "utils" in there else "S8")


def test_without_the_repository_the_setup_says_where_to_run_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="folder of its repository"):
        exec(CODE[0].source, {})
