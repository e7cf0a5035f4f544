"""What is printed is right for any run: none, one and many maps, errors and epochs."""

import pytest
import torch

from utils import report

LAYER3, LAYER4, PLUS = ("gradcam", "layer3"), ("gradcam", "layer4"), ("gradcam++", "layer4")
MARGINS = {
    "class": {LAYER3: (0.4, 0.1), LAYER4: (0.4, 0.1), PLUS: (-0.4, 0.1)},
    "pointing": {LAYER3: (0.3, 0.1), LAYER4: (0.1, 0.1), PLUS: (0.3, 0.1)},
}


def test_nesting_for_json_can_be_undone():
    maps = {LAYER3: 1, PLUS: 2, LAYER4: 3}
    assert report.nested(maps) == {"gradcam": {"layer3": 1, "layer4": 3}, "gradcam++": {"layer4": 2}}
    assert report.flat(report.nested(maps)) == maps


def test_the_verdict_names_what_fails_what_is_unclear_and_what_is_empty():
    passes, unclear, fails = report.verdict(MARGINS, {LAYER3: 7}, 50).splitlines()
    assert "Grad-CAM layer3" in passes and "7 of 50" in passes and "(" not in passes
    assert "(pointing?)" in unclear and "empty" not in unclear
    assert "Grad-CAM++ layer4" in fails and "(class)" in fails


def test_the_table_has_a_row_a_map_and_leaves_open_what_was_not_measured():
    checks = {check.name for check in report.CHECKS}
    baseline = ("baseline", "edges")
    trust = {check: {key: (0.5, 0.01) for key in (LAYER3, LAYER4, PLUS)} for check in checks}
    trust["pointing"] |= {baseline: (0.25, 0.0)}
    table = report.trust_table(trust, MARGINS)
    assert list(table.index) == ["Grad-CAM layer3", "Grad-CAM layer4", "Grad-CAM++ layer4", "edges"]
    assert table.iloc[:, -1].tolist() == ["none", "pointing?", "class", ""]
    assert "0.50 ± 0.01" in table.loc["Grad-CAM layer3"].tolist() and table.loc["edges"].tolist().count("") == 8


@pytest.mark.parametrize(("here", "named"), [((0.5, 0.1), "none"), ((0.85, 0.1), "none"), ((0.95, 0.1), "pointing")])
def test_a_repetition_names_what_differs_by_more_than_three_standard_errors(here, named):
    published = {"pointing": {LAYER3: (0.5, 0.1)}}
    table, sentence = report.repetition(published, {"pointing": {LAYER3: here, PLUS: (0.0, 0.1)}})
    assert len(table) == 1 and named in sentence


def test_captions_are_right_for_one_epoch_and_for_decays_within_rounding():
    row = {"EMA validation accuracy": 90.0, "validation accuracy": 80.0}
    rates = [0.03, 0.03 * (1 + 1e-9), 0.021, 0.021, 0.0147]
    assert " 2." in report.curves_caption([row | {"learning rate": rate} for rate in rates])
    assert " 0." in report.curves_caption([row | {"learning rate": 0.03}])
    confusion = torch.tensor([[8, 2], [1, 9]])
    caption = report.confusion_caption(confusion, ("cat", "dog"))
    assert "cat (80.0 %)" in caption and "cat predicted as dog (2 times)" in caption


def test_markdown_escapes_pipes():
    table = report.recipe_table({"a|b": 1})
    assert report.markdown(table).splitlines()[-1].startswith("| a\\|b | 1 |")
