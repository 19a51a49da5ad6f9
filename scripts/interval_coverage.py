"""How often intervals hold the truth, and verdicts are wrong, where the truth is known: a Markdown table.

``python scripts/interval_coverage.py [--sets 2000] [--groups 30,75,180,400] [--jobs N]``

Entries have one of three ordered grades; a head sees the grade through noise, of which the entries of a group
share a part, and is surer of itself than it should be.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import binomtest, norm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classify.evaluation.intervals import head_intervals
from classify.evaluation.verdicts import BETTER, make_verdicts
from classify.evaluation.weighted_metrics import GroupSums, group_sums, weighted_metrics

CLASSES = ("low", "middle", "award")
N_TRUTH = 2_000_000  # entries that stand for all there could be
BATCH = 50  # data sets that share their resamples
TOO_SURE = 1.3  # factor on the logarithm of the right probabilities
OF_GROUP, OF_ENTRY = (
    0.4,
    0.3,
)  # shares of the noise's variance; in a family of heads the rest is each head's own


@dataclass(frozen=True, kw_only=True)
class Design:
    """What data sets are drawn from."""

    n_groups: int
    size: int  # entries of a group
    accuracy: float  # in truth

    @property
    def distance(self) -> float:
        """Return how far apart two grades are, in standard deviations of the noise."""
        # Ends are right with Φ(d/2), the middle with 2Φ(d/2) − 1.
        return 2 * float(norm.ppf((3 * self.accuracy + 1) / 4))


def draw(design: Design, generator: np.random.Generator, *, n_heads: int = 1) -> list[GroupSums]:
    """Return what heads of equal worth, with errors in common, said of one data set."""
    group = np.repeat(np.arange(design.n_groups), design.size)
    grade = generator.integers(len(CLASSES), size=design.n_groups)[group]
    own = 1 - OF_GROUP - OF_ENTRY
    common = math.sqrt(OF_GROUP) * generator.normal(size=design.n_groups)[group]
    common += math.sqrt(OF_ENTRY) * generator.normal(size=len(group))
    found = []
    for _ in range(n_heads):
        place = design.distance * grade + common + math.sqrt(own) * generator.normal(size=len(group))
        logs = -0.5 * TOO_SURE * (place[:, None] - design.distance * np.arange(len(CLASSES))) ** 2
        scores = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
        found.append(group_sums(grade, scores, group, classes=CLASSES, ordered=True))
    return found


def truth(design: Design) -> dict[str, float]:
    """Return every metric over so many entries that it is as good as the truth."""
    n_groups = N_TRUTH // 10 // design.size
    large = Design(n_groups=n_groups, size=design.size, accuracy=design.accuracy)
    generator = np.random.default_rng(2**31)
    parts = [weighted_metrics(draw(large, generator)[0], np.ones((1, n_groups))) for _ in range(10)]
    return {metric: float(np.mean([part[metric][0] for part in parts])) for metric in parts[0]}


def covered(design: Design, known: dict[str, float], *, n_sets: int, seed: int) -> dict[str, list[bool]]:
    """Return for every metric whether the interval holds the truth, data set by data set that has one."""
    generator = np.random.default_rng([seed, design.n_groups, design.size, round(100 * design.accuracy)])
    sums = [draw(design, generator)[0] for _ in range(n_sets)]
    found: dict[str, list[bool]] = {metric: [] for metric in known}
    for one in head_intervals(sums, seed=seed):
        for metric, interval in one.items():
            if interval["low"] is not None:
                found[metric].append(interval["low"] <= known[metric] <= interval["high"])
    return found


def false_verdicts(design: Design, *, graded: bool, n_heads: int, n_sets: int, seed: int) -> int:
    """Return in how many data sets one head of equals is called better than another."""
    generator = np.random.default_rng([seed, design.n_groups, design.size, graded])
    names = [{"store": "", "head": str(number)} for number in range(n_heads)]
    wrong = 0
    for number in range(n_sets):
        sums = draw(design, generator, n_heads=n_heads)
        if not graded:
            sums = [GroupSums(**{**vars(one), "graded": False}) for one in sums]
        verdicts = make_verdicts(names, sums, n_resamples=1, seed=seed + number)
        wrong += any(verdict["verdict"] == BETTER for verdict in verdicts)
    return wrong


def coverage_rows(designs: Sequence[Design], *, n_sets: int, jobs: int = 1) -> Iterator[list[str]]:
    """Yield a row of the table for every design and kind of metric."""
    for design in designs:
        known = truth(design)
        batches = [min(BATCH, n_sets - start) for start in range(0, n_sets, BATCH)]
        parts = Parallel(n_jobs=jobs)(
            delayed(covered)(design, known, n_sets=size, seed=seed) for seed, size in enumerate(batches)
        )
        for kind in dict.fromkeys(metric.partition(" of ")[0] for metric in known):
            metrics = [metric for metric in known if metric.partition(" of ")[0] == kind]
            held = [hit for part in parts for metric in metrics for hit in part[metric]]
            possible = n_sets * len(metrics)
            value = np.mean([known[metric] for metric in metrics])
            share = f"{100 * np.mean(held):.1f}" if held else "–"
            yield [
                *(str(design.n_groups), str(design.size), f"{design.accuracy:.1f}"),
                *(kind if len(metrics) == 1 else f"{kind} of a class", f"{value:.3f}", share),
                f"{100 * (1 - len(held) / possible):.1f}",
            ]


def family_rows(
    designs: Sequence[Design], *, n_sets: int, n_heads: int, jobs: int = 1
) -> Iterator[list[str]]:
    """Yield a row for every design and primary metric, with exact 95 % bounds of the rate."""
    for design in designs:
        for graded in (False, True):
            batches = [min(BATCH, n_sets - start) for start in range(0, n_sets, BATCH)]
            parts = Parallel(n_jobs=jobs)(
                delayed(false_verdicts)(design, graded=graded, n_heads=n_heads, n_sets=size, seed=1000 * seed)
                for seed, size in enumerate(batches)
            )
            bounds = binomtest(sum(parts), n_sets).proportion_ci(0.95, method="exact")
            yield [
                *(str(design.n_groups), str(design.size), f"{design.accuracy:.1f}"),
                *("kappa" if graded else "accuracy", str(n_heads), f"{100 * sum(parts) / n_sets:.2f}"),
                f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f}",
            ]


def print_table(header: Sequence[str], rows: Iterator[list[str]]) -> None:
    """Print Markdown, line by line as rows come."""
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def main() -> None:
    """Simulate what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets a design (default: 2000)")
    parser.add_argument("--groups", default="30,75,180,400", help="numbers of groups, with commas")
    parser.add_argument("--sizes", default="1,4", help="entries of a group, with commas")
    parser.add_argument("--accuracies", default="0.7,0.8,0.9", help="true accuracies, with commas")
    parser.add_argument("--heads", type=int, default=5, help="heads of one family (default: 5)")
    parser.add_argument("--only", choices=("coverage", "family"), help="one of the two tables")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    asked = parser.parse_args()
    designs = [
        Design(n_groups=int(n_groups), size=int(size), accuracy=float(accuracy))
        for size in asked.sizes.split(",")
        for n_groups in asked.groups.split(",")
        for accuracy in asked.accuracies.split(",")
    ]
    if asked.only != "family":
        print_table(
            ("groups", "entries a group", "accuracy", "metric", "truth", "covered %", "no interval %"),
            coverage_rows(designs, n_sets=asked.sets, jobs=asked.jobs),
        )
    if asked.only != "coverage":
        print_table(
            ("groups", "entries a group", "accuracy", "metric", "heads", "false better %", "95 % bounds"),
            family_rows(designs, n_sets=asked.sets, n_heads=asked.heads, jobs=asked.jobs),
        )


if __name__ == "__main__":
    main()
