"""Fill the blocks of the pages from results files: python -m scripts.pages [--check]

A block stands between `<!-- name -->` and `<!-- end -->`; `--check` only names blocks that are stale, and exits 1 then.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from utils import report
from utils.files import RESULTS, write_atomically
from utils.gradcam import METHODS
from utils.report import flat, markdown, plus_minus, title, trust_table
from utils.trust import CHECKS, outcome, passing

PAGES = [Path("README.md"), *(Path("benchmarks") / f"{name}.md" for name in ("recipes", "trust", "speed"))]
LOGS = Path("benchmarks/logs")
NOVEMBER = LOGS / "2026-11"  # logs of an earlier recipe
SEEDS = NOVEMBER  # where recipe-seed0-40x..., -seed1- and -seed2- are: results.json of three full runs
T_OF_THREE = 4.3  # by so many standard errors a mean of three is significant at 5 %, by Student's t


def read_logs(folder: Path, pattern: str) -> list[dict]:
    """Read the logs of a folder whose names match, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def full_runs() -> list[dict]:
    """Read the full runs of the recipe, a seed each."""
    return read_logs(SEEDS, "recipe-seed?-40x*.json")


def gains(logs: list[dict], reference: list[dict], column: str) -> tuple[float, float]:
    """Return by how many points the last epochs are higher than the reference's: mean over seeds, standard error."""
    differences = [
        one["history"][-1][column] - other["history"][-1][column] for one, other in zip(logs, reference, strict=True)
    ]
    return mean(differences), stdev(differences) / len(differences) ** 0.5


def seeds() -> str:
    """Tabulate the recipe's full-length runs."""
    logs = full_runs()
    tests = [log["test"]["accuracy"] for log in logs]
    earlier = "These are runs by the recipe of November 2026; those by the present one are not finished.\n\n"
    rows = {
        log["config"]["seed"]: (
            f"{test:.2f}",
            f"{log['history'][-1]['EMA validation accuracy']:.2f}",
            f"{log['config']['train images']:,}",
            log["environment"]["device"],
        )
        for log, test in zip(logs, tests, strict=True)
    }
    rows["mean ± standard deviation"] = f"**{spread(tests)}**", "", "", ""
    columns = ["test accuracy (%)", "validation accuracy (%)", "training images", "device"]
    return earlier * (SEEDS == NOVEMBER) + markdown(pd.DataFrame(rows, columns).T, "seed")


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation as text."""
    return plus_minus((mean(values), stdev(values))) if len(values) > 1 else f"{values[0]:.2f}"


def seed_margins() -> list[dict]:
    """Return {check: {key: (margin, standard error)}} of every seed, in the order of the checks."""
    logs = [log["margins"] for log in full_runs()]
    return [{check.name: flat(log[check.name]) for check in CHECKS if check.name in log} for log in logs]


def findings() -> str:
    """List what holds in the logs of all seeds."""
    tests, logs = [log["test"]["accuracy"] for log in full_runs()], seed_margins()
    always = [title(key) for key in logs[0]["class"] if all(key in passing(log) for log in logs)]
    never = [method for method in METHODS if not any(key[0] == method for log in logs for key in passing(log))]
    recipe = ", recipe of November 2026" * (SEEDS == NOVEMBER)
    return "\n".join(
        [
            f"- **{spread(tests)} % test accuracy** (mean ± standard deviation of {len(tests)} seeds{recipe}).",
            f"- **Maps that pass every check in all {len(logs)} seeds: {', '.join(always) or 'none'}**"
            + "".join(f"; no {METHODS[method]} map does in any" for method in never)
            + " ([caveat](#can-the-maps-be-trusted)).",
        ]
    )


def trust_counts() -> str:
    """Tabulate in how many seeds each map passes each check."""
    logs = seed_margins()
    rows = {
        title(key): [sum(outcome(*log[check][key]) == "passes" for log in logs) for check in logs[0]]
        + [f"**{sum(key in passing(log) for log in logs)}**"]
        for key in logs[0]["class"]
    }
    return markdown(pd.DataFrame(rows, [*logs[0], "**all**"]).T, f"passes in so many of {len(logs)} seeds")


def ablation(weights: str = "both") -> str:
    """Tabulate what short runs with one value changed gain over the recipe of November 2026, by the EMA or both."""
    reference, rows = read_logs(NOVEMBER, "recipe-seed?-20x4500.json"), {}
    for name in {path.name.split("-seed")[0] for path in NOVEMBER.glob("*-seed2-20x4500.json")} - {"recipe"}:
        logs = read_logs(NOVEMBER, f"{name}-seed?-20x4500.json")
        rows[f"`{name}`"] = [gains(logs, reference, f"{prefix}validation accuracy") for prefix in ("EMA ", "")]
    table = pd.DataFrame(sorted(rows.values(), reverse=True), sorted(rows, key=rows.get, reverse=True))
    star = table.map(lambda gain: plus_minus(gain, 1) + " *" * (abs(gain[0]) > T_OF_THREE * gain[1]))
    star = star.set_axis(["EMA", "last step"], axis=1)
    return markdown(star if weights == "both" else star[[weights]], "change, gain by")


def swapped() -> str:
    """Tabulate by how much maps of this run are better than maps of other images."""
    maps = {check: flat(values) for check, values in json.loads(RESULTS.read_text())["swapped"].items()}
    table = pd.DataFrame({c: {title(key): plus_minus(v, 3) for key, v in m.items()} for c, m in maps.items()})
    return markdown(table, "map") if len(table) else "No map passes every check."


def runs(pattern: str) -> str:
    """Tabulate the runs whose log's path below the folder of logs fits the pattern."""
    rows = {}
    for path in sorted(LOGS.glob(pattern)):
        log = json.loads(path.read_text())
        last, hours = log["history"][-1], sum(row["seconds"] for row in log["history"]) / 3600
        validation = f"{last['EMA validation accuracy']:.2f}", f"{last['validation accuracy']:.2f}"
        rows[f"`{path.stem}`"] = *validation, f"{log['test']['accuracy']:.2f}" if "test" in log else "", f"{hours:.1f}"
    columns = ["validation, EMA (%)", "validation, last step (%)", "test, EMA (%)", "hours on two CPU cores"]
    return markdown(pd.DataFrame(rows, columns).T, "log")


def this_run() -> str:
    """Say what the run is whose figures, weights and notebook lie in the repository."""
    results = json.loads(RESULTS.read_text())
    test, config = results["test"], results["config"]
    return (
        f"*This run*: seed {config['seed']}, {config['train images']:,} training images, {config['epochs']} epochs in "
        f"{results['trained']['training minutes'] / 60:.1f} hours on {results['trained']['device']}: test accuracy "
        f"{test['accuracy']:.2f} %, {results['errors']} errors, ECE {test['ECE']:.3f}."
    )


def trust_values() -> str:
    """Tabulate the checks of this run's maps."""
    results = json.loads(RESULTS.read_text())
    trust, judged = ({c: flat(maps) for c, maps in results[part].items()} for part in ("trust", "margins"))
    return markdown(trust_table(trust, judged), "map")


def run_times() -> str:
    """Say how long a run takes: a full one on GPUs, explain mode on CPUs."""
    explained = "".join(
        f"\n\nWithout a GPU `make run` took {log['minutes']:.0f} minutes on {log['device']}."
        for log in read_logs(LOGS, "explain*.json")
    )
    return markdown(report.run_times(), "a full run on") + explained


def counts() -> str:
    """Tabulate what a batch of 256 images counts."""
    table = pd.DataFrame(json.loads(report.RUN_TIMES.read_text())["counts"]).T
    rows = table.assign(tflop=table["tflop"].map("{:.2f}".format), tb=(1e3 * table["tb"]).map("{:.1f}".format))
    rows["launches"] = table["launches"].map("{:.0f}".format)
    return markdown(rows.set_axis(["TFLOP", "GB read and written", "kernel launches"], axis=1), "256 images")


def speed() -> str:
    """Tabulate measurements of both ways to train and to explain."""
    rows = {}
    for path in sorted([*LOGS.glob("*_speed*.json"), *NOVEMBER.glob("*_speed*.json")]):
        log = json.loads(path.read_text())
        if "assignment" in log:
            what, (slow, fast) = "an epoch", (log[way]["seconds_per_epoch"] for way in ("assignment", "repository"))
        else:
            what, slow, fast = f"{log['maps']} maps", log["one_by_one_seconds"], log["compute_cams_seconds"]
        device = log["environment"]["device"]
        rows[f"{what}, {device}"] = f"{slow:,.1f}", f"{fast:,.1f}", f"{log['ratio']:.2f}"
    return markdown(pd.DataFrame(rows, ["the assignment's way (s)", "this repository (s)", "times as fast"]).T)


def to_assignment() -> str:
    """Tabulate after how many epochs the validation accuracy stays above what the assignment's run reached in 40."""
    rows = {}
    for log in full_runs():
        history, target = log["history"], 83.2  # 82.27 % of the test images, and what validation flatters
        below = [row["epoch"] for row in history if row["validation accuracy"] < target]
        first = max(below, default=0) + 1
        minutes = f"{sum(row['seconds'] for row in history[:first]) / 60:.0f}"
        reached = (first, minutes) if first <= len(history) else ("never", "")
        rows[log["config"]["seed"]] = *reached, log["environment"]["device"]
    return markdown(pd.DataFrame(rows, ["epochs, instead of 40", "minutes", "device"]).T, "seed")


BLOCKS = (
    *(findings, seeds, this_run, ablation, runs, trust_counts, trust_values, swapped),
    *(speed, to_assignment, run_times, counts),
)
BLOCK = re.compile(r"<!-- (\w+)( [^\n]+?)? -->\n(.*?)<!-- end -->", re.DOTALL)


def fill(text: str) -> str:
    """Fill every block of a page anew: that of `<!-- name argument -->` by calling name(argument)."""
    blocks = {block.__name__: block for block in BLOCKS}

    def filled(match: re.Match) -> str:
        name, argument, _ = match.groups()
        content = blocks[name](argument.strip()) if argument else blocks[name]()
        return f"<!-- {name}{argument or ''} -->\n{content}\n<!-- end -->"

    return BLOCK.sub(filled, text)


def main() -> None:
    """Fill the pages, or with --check name what filling would change and exit 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        pairs = zip(BLOCK.findall(text), BLOCK.findall(filled), strict=True)
        stale += [f"{path}: {old[0]}" for old, new in pairs if old != new]
        if not check and filled != text:
            write_atomically(path, lambda name, filled=filled: Path(name).write_text(filled, encoding="utf-8"))
    if check and stale:
        sys.exit("These blocks are stale; run `make pages`:\n" + "\n".join(stale))


if __name__ == "__main__":
    main()
