import json
from types import SimpleNamespace

import pytest
import torch

from models import ResNet18
from utils import check_weights
from utils.checkpoint import load_weights, save_weights
from utils.data import eval_loader
from utils.standin import draw_shapes
from utils.training import predict, score

IMAGES, LABELS, _ = draw_shapes(20, seed=0)
OTHER = {"accuracy": 99.0, "cross-entropy": 0.1, "calibration error": 0.1}
REST = {"held-out": {}, "config": {}, "trained": {}, "history": []}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Weights and their figures on a small test set."""
    monkeypatch.setattr(check_weights, "WEIGHTS", tmp_path / "weights.safetensors")
    monkeypatch.setattr(check_weights, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(
        check_weights, "load_cifar10", lambda root: SimpleNamespace(test_images=IMAGES, test_labels=LABELS)
    )
    torch.manual_seed(0)
    model = ResNet18()
    save_weights(check_weights.WEIGHTS, model)
    figures = score(*predict(model, eval_loader(IMAGES, LABELS)))
    check_weights.RESULTS.write_text(json.dumps({"published": figures} | REST))
    return figures


def test_agrees_with_the_published_figures(published, capsys):
    check_weights.main()
    assert f"{published['accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "results, message",
    [
        (None, "no results"),
        ("{", "no full run"),
        ("[]", "no full run"),
        ('{"published": {"accuracy": 1}}', "no full run .*cross-entropy"),
        (json.dumps({"published": OTHER}), "no full run .*held-out"),
        (json.dumps({"published": OTHER} | REST), "not of the same run"),
    ],
)
def test_results_that_do_not_match_are_refused(published, results, message):
    check_weights.RESULTS.unlink()
    if results:
        check_weights.RESULTS.write_text(results)
    with pytest.raises(SystemExit, match=message):
        check_weights.main()


def test_missing_weights_are_refused(published):
    check_weights.WEIGHTS.unlink()
    with pytest.raises(SystemExit, match="no weights"):
        check_weights.main()


def test_the_published_weights_make_the_published_mistakes(cifar10):
    model, results = ResNet18(), json.loads(check_weights.RESULTS.read_text())
    load_weights(check_weights.WEIGHTS, model)
    shown = results["indices"]
    logits, labels = predict(model, eval_loader(cifar10.test_images[shown], cifar10.test_labels[shown]))
    confidence, predicted = logits.softmax(1).max(1)
    assert not (predicted == labels).any()
    assert confidence.mean().item() == pytest.approx(results["confidence"]["shown"], abs=1e-3)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", check_weights.TOLERANCE)
def test_every_figure_is_compared_both_ways(name, sign):
    figures = dict.fromkeys(check_weights.TOLERANCE, 1.0)
    with pytest.raises(ValueError, match=f"differ in {name};"):
        check_weights.check_same_run(figures | {name: 1 + 2 * sign * check_weights.TOLERANCE[name]}, figures)
