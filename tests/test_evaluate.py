"""The published weights beside the metrics that are published of them."""

import json
from types import SimpleNamespace

import pytest

from models import ResNet18
from scripts import evaluate
from utils.checkpoint import load_weights, save_weights
from utils.data import draw_squares, eval_loader
from utils.files import RESULTS, TOLERANCE, WEIGHTS, check_same_run
from utils.training import metrics, predict

IMAGES, LABELS = draw_squares(20, seed=0)
REST = {"config": {}, "trained": {}, "history": []}
OTHER = {"accuracy": 99.0, "cross-entropy": 0.1, "ECE": 0.1}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Save weights; return their file and their metrics on a small test set."""
    path, model = tmp_path_factory.mktemp("published") / "weights.safetensors", ResNet18()
    save_weights(path, model)
    load_weights(path, model)
    return path, metrics(*predict(model, eval_loader(IMAGES, LABELS)))


@pytest.fixture
def results(published, monkeypatch, tmp_path):
    """Publish weights and metrics, and return the file of the metrics."""
    monkeypatch.setattr(evaluate, "WEIGHTS", published[0])
    monkeypatch.setattr(evaluate, "RESULTS", tmp_path / "results.json")
    data = SimpleNamespace(test_images=IMAGES, test_labels=LABELS)
    monkeypatch.setattr(evaluate, "load_cifar10", lambda root: data)
    evaluate.RESULTS.write_text(json.dumps({"test": published[1]} | REST))
    return evaluate.RESULTS


def test_the_same_run_passes(results, published, capsys):
    evaluate.main()
    assert f"{published[1]['cross-entropy']:.4f}" in capsys.readouterr().out


RESULTS_FAULTS = {
    "{": "no full run",
    "[]": "no full run",
    json.dumps({"test": OTHER}): "no full run .*config",
    json.dumps({"test": {"accuracy": 1}} | REST): "no full run .*cross-entropy",
    json.dumps({"test": OTHER} | REST): "different runs",
}


@pytest.mark.parametrize("content", RESULTS_FAULTS)
def test_results_that_do_not_match_are_refused(results, content):
    results.write_text(content)
    with pytest.raises(SystemExit, match=RESULTS_FAULTS[content]):
        evaluate.main()


@pytest.mark.parametrize("name", ["WEIGHTS", "RESULTS"])
def test_a_missing_file_is_named(results, name, monkeypatch):
    monkeypatch.setattr(evaluate, name, results.with_name("missing"))
    with pytest.raises(SystemExit, match=str(results.with_name("missing"))):
        evaluate.main()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", TOLERANCE)
def test_every_metric_is_compared_both_ways(name, sign):
    equal = dict.fromkeys(TOLERANCE, 1.0)
    check_same_run(equal | {name: 1 + 0.9 * sign * TOLERANCE[name]}, equal)
    with pytest.raises(ValueError, match=f"by {name}:"):
        check_same_run(equal | {name: 1 + 2 * sign * TOLERANCE[name]}, equal)


def test_the_published_weights_make_the_published_errors(cifar10):
    model, indices = ResNet18(), json.loads(RESULTS.read_text())["indices"]
    load_weights(WEIGHTS, model)
    logits, labels = predict(model, eval_loader(cifar10.test_images[indices], cifar10.test_labels[indices]))
    assert not (logits.argmax(1) == labels).any()
