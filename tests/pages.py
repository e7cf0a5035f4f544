"""The texts and logs that the tests of README.md, recipes.md, trust.md and speed.md share."""

import json
import statistics
from pathlib import Path

PAGES = [
    Path(name).read_text()
    for name in ("README.md", "benchmarks/recipes.md", "benchmarks/trust.md", "benchmarks/speed.md")
]
README = PAGES[0]
TEXT, RECIPES, TRUST, SPEED = (" ".join(page.split()) for page in PAGES)  # without line breaks
RESULTS = json.loads(Path("images/results.json").read_text())
BEYOND_CHANCE = 4.3  # standard errors of a mean of three at 5 %: t of 2 degrees of freedom


def read_log(name: str) -> dict:
    """Return a published log of a recipe or of its maps."""
    return json.loads(Path(f"benchmarks/recipes/{name}.json").read_text())


def lead(one: list[float], other: list[float]) -> tuple[list[float], float, float]:
    """Return by how much one is ahead in each seed, the mean, and its standard error."""
    gains = [a - b for a, b in zip(one, other, strict=True)]
    return gains, statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
