"""Simulation of the coverage of intervals and the error rate of verdicts: Markdown tables.

``python scripts/interval_coverage.py [--sets 2000] [--groups 30,75,180,400] [--jobs N]``

Entries have one of three ordered grades. A simulated head observes the grade with noise, part of which is
shared by the entries of a group, and is overconfident.
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
N_TRUTH = 2_000_000  # entries that approximate the population
BATCH = 50  # data sets with the same resamples
OVERCONFIDENCE = 1.3  # factor on the logarithm of the correct probabilities
# Fractions of the noise's variance; in a family of heads the rest is each head's own.
GROUP_VARIANCE, ENTRY_VARIANCE = 0.4, 0.3


@dataclass(frozen=True, kw_only=True)
class Design:
    """Distribution that data sets are drawn from."""

    n_groups: int
    size: int  # entries per group
    accuracy: float  # true accuracy

    @property
    def distance(self) -> float:
        """Return the distance between neighbouring grades in standard deviations of the noise."""
        # The outer grades are correct with probability Φ(d/2), the middle one with 2Φ(d/2) − 1.
        return 2 * float(norm.ppf((3 * self.accuracy + 1) / 4))


def draw(design: Design, generator: np.random.Generator, *, n_heads: int = 1) -> list[GroupSums]:
    """Return the predictions of equally accurate heads with correlated errors on one data set."""
    group = np.repeat(np.arange(design.n_groups), design.size)
    grade = generator.integers(len(CLASSES), size=design.n_groups)[group]
    own = 1 - GROUP_VARIANCE - ENTRY_VARIANCE
    common = math.sqrt(GROUP_VARIANCE) * generator.normal(size=design.n_groups)[group]
    common += math.sqrt(ENTRY_VARIANCE) * generator.normal(size=len(group))
    found = []
    for _ in range(n_heads):
        observed = design.distance * grade + common + math.sqrt(own) * generator.normal(size=len(group))
        logs = -0.5 * OVERCONFIDENCE * (observed[:, None] - design.distance * np.arange(len(CLASSES))) ** 2
        scores = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
        found.append(group_sums(grade, scores, group, classes=CLASSES, ordered=True))
    return found


def truth(design: Design) -> dict[str, float]:
    """Return every metric over so many entries that it is close to the true value."""
    n_groups = N_TRUTH // 10 // design.size
    large = Design(n_groups=n_groups, size=design.size, accuracy=design.accuracy)
    generator = np.random.default_rng(2**31)
    parts = [weighted_metrics(draw(large, generator)[0], np.ones((1, n_groups))) for _ in range(10)]
    return {metric: float(np.mean([part[metric][0] for part in parts])) for metric in parts[0]}


def covered(
    design: Design, true_values: dict[str, float], *, n_sets: int, seed: int
) -> dict[str, list[bool]]:
    """Return, per metric and data set with an interval, whether the interval contains the true value."""
    generator = np.random.default_rng([seed, design.n_groups, design.size, round(100 * design.accuracy)])
    sums = [draw(design, generator)[0] for _ in range(n_sets)]
    found: dict[str, list[bool]] = {metric: [] for metric in true_values}
    for intervals in head_intervals(sums, seed=seed):
        for metric, interval in intervals.items():
            if interval["low"] is not None:
                found[metric].append(interval["low"] <= true_values[metric] <= interval["high"])
    return found


def false_verdicts(design: Design, *, ordinal: bool, n_heads: int, n_sets: int, seed: int) -> int:
    """Return the number of data sets in which one of several equal heads is called better than another."""
    generator = np.random.default_rng([seed, design.n_groups, design.size, ordinal])
    names = [{"store": "", "head": str(number)} for number in range(n_heads)]
    wrong = 0
    for number in range(n_sets):
        sums = draw(design, generator, n_heads=n_heads)
        if not ordinal:
            sums = [GroupSums(**{**vars(one), "ordinal": False}) for one in sums]
        verdicts = make_verdicts(names, sums, n_resamples=1, seed=seed + number)
        wrong += any(verdict["verdict"] == BETTER for verdict in verdicts)
    return wrong


def coverage_rows(designs: Sequence[Design], *, n_sets: int, jobs: int = 1) -> Iterator[list[str]]:
    """Yield one table row per design and kind of metric."""
    for design in designs:
        true_values = truth(design)
        batches = [min(BATCH, n_sets - start) for start in range(0, n_sets, BATCH)]
        parts = Parallel(n_jobs=jobs)(
            delayed(covered)(design, true_values, n_sets=size, seed=seed) for seed, size in enumerate(batches)
        )
        for kind in dict.fromkeys(metric.partition(" of ")[0] for metric in true_values):
            metrics = [metric for metric in true_values if metric.partition(" of ")[0] == kind]
            hits = [hit for part in parts for metric in metrics for hit in part[metric]]
            possible = n_sets * len(metrics)
            value = np.mean([true_values[metric] for metric in metrics])
            coverage = f"{100 * np.mean(hits):.1f}" if hits else "–"
            yield [
                *(str(design.n_groups), str(design.size), f"{design.accuracy:.1f}"),
                *(kind if len(metrics) == 1 else f"{kind} of a class", f"{value:.3f}", coverage),
                f"{100 * (1 - len(hits) / possible):.1f}",
            ]


def family_rows(
    designs: Sequence[Design], *, n_sets: int, n_heads: int, jobs: int = 1
) -> Iterator[list[str]]:
    """Yield one row per design and primary metric, with an exact 95 % interval of the error rate."""
    for design in designs:
        for ordinal in (False, True):
            batches = [min(BATCH, n_sets - start) for start in range(0, n_sets, BATCH)]
            parts = Parallel(n_jobs=jobs)(
                delayed(false_verdicts)(
                    design, ordinal=ordinal, n_heads=n_heads, n_sets=size, seed=1000 * seed
                )
                for seed, size in enumerate(batches)
            )
            bounds = binomtest(sum(parts), n_sets).proportion_ci(0.95, method="exact")
            yield [
                *(str(design.n_groups), str(design.size), f"{design.accuracy:.1f}"),
                *("kappa" if ordinal else "accuracy", str(n_heads), f"{100 * sum(parts) / n_sets:.2f}"),
                f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f}",
            ]


def print_table(header: Sequence[str], rows: Iterator[list[str]]) -> None:
    """Print a Markdown table, each row as soon as it is computed."""
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def main() -> None:
    """Run the simulations of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets per design (default: 2000)")
    parser.add_argument("--groups", default="30,75,180,400", help="numbers of groups, with commas")
    parser.add_argument("--sizes", default="1,4", help="entries per group, with commas")
    parser.add_argument("--accuracies", default="0.7,0.8,0.9", help="true accuracies, with commas")
    parser.add_argument("--heads", type=int, default=5, help="heads per family (default: 5)")
    parser.add_argument("--only", choices=("coverage", "family"), help="print only one of the two tables")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args()
    designs = [
        Design(n_groups=int(n_groups), size=int(size), accuracy=float(accuracy))
        for size in options.sizes.split(",")
        for n_groups in options.groups.split(",")
        for accuracy in options.accuracies.split(",")
    ]
    if options.only != "family":
        print_table(
            ("groups", "entries per group", "accuracy", "metric", "truth", "covered %", "no interval %"),
            coverage_rows(designs, n_sets=options.sets, jobs=options.jobs),
        )
    if options.only != "coverage":
        print_table(
            ("groups", "entries per group", "accuracy", "metric", "heads", "false better %", "95 % bounds"),
            family_rows(designs, n_sets=options.sets, n_heads=options.heads, jobs=options.jobs),
        )


if __name__ == "__main__":
    main()
