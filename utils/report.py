"""Tables, captions and the verdict, made from results: what the notebook prints and the pages are filled with."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd
from torch import Tensor

from utils.gradcam import METHODS
from utils.training import Recipe
from utils.trust import CHECKS, Key, outcome, passing

RUN_TIMES = Path("benchmarks/logs/run_times.json")
ARROWS = {"lower": "↓", "higher": "↑", "near 0": "→ 0"}
HISTORY_DIGITS = {
    "epoch": 0,
    "learning rate": 6,
    "train loss": 4,
    "train accuracy": 2,
    "validation loss": 4,
    "validation accuracy": 2,
    "EMA validation accuracy": 2,
    "images/s": 0,
    "minutes left": 1,
}


def nested(maps: dict[Key, object]) -> dict[str, dict[str, object]]:
    """Turn {(method, layer): value} into {method: {layer: value}}, which JSON can hold."""
    layers = {}
    for (method, layer), value in maps.items():
        layers.setdefault(method, {})[layer] = value
    return layers


def flat(maps: dict[str, dict[str, object]]) -> dict[Key, object]:
    """Undo `nested`."""
    return {(method, layer): value for method, layers in maps.items() for layer, value in layers.items()}


def title(key: Key) -> str:
    """Return a map's name for readers."""
    return f"{METHODS[key[0]]} {key[1]}" if key[0] in METHODS else key[1]


def plus_minus(pair: tuple[float, float], digits: int = 2) -> str:
    """Return a mean and its error as text."""
    return f"{pair[0]:z.{digits}f} ± {pair[1]:.{digits}f}"


def history_table(history: list[dict]) -> pd.DataFrame:
    """Tabulate a training, a row an epoch."""
    return pd.DataFrame(history, columns=list(HISTORY_DIGITS)).round(HISTORY_DIGITS).set_index("epoch")


def run_times() -> pd.DataFrame:
    """Tabulate how long a full run takes on GPUs, a row a device."""
    rows = json.loads(RUN_TIMES.read_text())["rows"]
    minutes = [[f"{row['training_minutes']:.0f}", f"{row['trust_minutes']:.1f}"] for row in rows]
    devices = [f"{row['device']}, {'computed' if row['computed'] else 'measured'}" for row in rows]
    return pd.DataFrame(minutes, devices, ["training (minutes)", "checks of the maps (minutes)"])


def recipe_table(config: dict) -> pd.DataFrame:
    """Tabulate a configuration's values and the recipe's reasons for them."""
    reasons = {f.name.replace("_", " "): f.metadata["reason"] for f in fields(Recipe)}
    rows = [(str(value), reasons.get(name, "")) for name, value in config.items()]
    return pd.DataFrame(rows, list(config), ["value", "why"])


def trust_table(trust: dict[str, dict[Key, tuple]], margins: dict[str, dict[Key, tuple]]) -> pd.DataFrame:
    """Tabulate {check: {key: (mean, standard error)}}, a row a map, with the checks that it does not pass."""
    columns = {
        f"{check.name} {ARROWS[check.better]}": {title(key): plus_minus(v) for key, v in trust[check.name].items()}
        for check in CHECKS
    }
    faults = {title(key): ", ".join(not_passed(margins, key)) or "none" for key in margins["class"]}
    return pd.DataFrame(columns | {"fails (unclear?)": faults}).fillna("")


def not_passed(margins: dict[str, dict[Key, tuple]], key: Key) -> list[str]:
    """Name the checks that a map fails, and with a question mark those where that is unclear."""
    outcomes = {check: outcome(*maps[key]) for check, maps in margins.items()}
    return [c for c, o in outcomes.items() if o == "fails"] + [f"{c}?" for c, o in outcomes.items() if o == "unclear"]


def verdict(margins: dict[str, dict[Key, tuple]], empty: dict[Key, int], count: int) -> str:
    """Say in Markdown which maps pass, which do not and why, and how many of `count` maps are empty."""
    lines, good = [], passing(margins)
    for key in margins["class"]:
        if key in good:
            advice = "passes every check"
        elif outcome(*margins["class"][key]) == "fails":
            advice = "hardly depends on the class: do not read it as a reason for the predicted one"
        else:
            advice = "does not pass every check"
        details = f" ({', '.join(not_passed(margins, key))})" if key not in good else ""
        holes = f" It is empty in {empty[key]} of {count} images." if empty.get(key) else ""
        lines.append(f"- **{title(key)}** {advice}{details}.{holes}")
    return "\n".join(lines)


def repetition(published: dict[str, dict[Key, tuple]], here: dict[str, dict[Key, tuple]]) -> tuple[pd.DataFrame, str]:
    """Tabulate "published / here" of every check and map; say which differ by more than three standard errors."""
    table, different = pd.DataFrame(), []
    for check, maps in here.items():
        for key in (key for key in maps if key[0] in METHODS and key in published[check]):
            (one, error), (other, own) = published[check][key], maps[key]
            table.loc[title(key), check] = f"{plus_minus((one, error))} / {plus_minus((other, own))}"
            if abs(one - other) > 3 * (error**2 + own**2) ** 0.5:
                different.append(f"{check} of {title(key)}")
    return table, f"More than three standard errors apart: {', '.join(different) or 'none'}."


def markdown(table: pd.DataFrame, corner: str = "") -> str:
    """Return a table in GitHub's Markdown."""
    rows = [[corner, *table.columns], ["---"] * (len(table.columns) + 1), *map(list, table.reset_index().values)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def curves_caption(history: list[dict]) -> str:
    """Say how a training went: the decays of its learning rate, and where weights and EMA end."""
    rates = [row["learning rate"] for row in history]
    decays = sum(later < 0.999 * earlier for earlier, later in zip(rates, rates[1:], strict=False))
    last = history[-1]
    return (
        f"Decays of the learning rate: {decays}. Validation accuracy after the last epoch: "
        f"{last['EMA validation accuracy']:.2f} % by the EMA, {last['validation accuracy']:.2f} % by the weights."
    )


def confusion_caption(confusion: Tensor, classes: Sequence[str]) -> str:
    """Name the hardest class and the most frequent error of a confusion matrix (10, 10)."""
    accuracies = 100 * confusion.diag() / confusion.sum(1)
    errors = confusion.clone().fill_diagonal_(0)
    true, mistaken = divmod(int(errors.argmax()), len(classes))
    return (
        f"Hardest class: {classes[accuracies.argmin()]} ({accuracies.min():.1f} %). Most frequent error: "
        f"{classes[true]} predicted as {classes[mistaken]} ({errors.max()} times)."
    )


def error_title(classes: Sequence[str], label: Tensor, predicted: Tensor, confidence: Tensor) -> str:
    """Return the title of a misclassified image."""
    return f"{classes[label]}, predicted {classes[predicted]} ({100 * confidence:.0f}\N{NO-BREAK SPACE}%)"
