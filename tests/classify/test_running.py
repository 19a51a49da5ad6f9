"""Tasks over processes: failures kept apart, equal results for any number of jobs."""

from dataclasses import dataclass

import numpy as np
import pytest

from classify import search
from classify.protocol import make_plan
from classify.running import Failure, run_tasks
from classify.samples import load_samples
from classify.search import Settings, run_trials

SETTINGS = Settings(seed=0, class_weight=None, dense_options={}, log_folder=None)


@dataclass(frozen=True)
class Fake:
    value: int
    head: str = "logreg"

    def run(self):
        if self.value < 0:
            raise ValueError("negative\nfor a reason")
        return self.value * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_task_takes_no_other_with_it(jobs):
    told = []
    outcomes = run_tasks([Fake(1), Fake(-1), Fake(3)], jobs=jobs, on_progress=told.append)
    assert outcomes == [2, Failure(reason="ValueError: negative for a reason"), 6]
    assert told == [1, 1, 1]


def test_an_interrupt_is_not_a_failure():
    class Interrupted(Fake):
        def run(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Interrupted(1)], jobs=1)


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_jobs(make_store):
    samples = load_samples(make_store(distance=1.0, n_features=40))
    plan = make_plan(samples, seed=0)
    one, two = (
        run_trials([samples], ["logreg", "svm-linear"], plan, settings=SETTINGS, jobs=jobs) for jobs in (1, 2)
    )
    for alone, apart in zip(one, two, strict=True):
        assert alone.choices[0].params == apart.choices[0].params
        assert alone.choices[0].score == apart.choices[0].score
        np.testing.assert_array_equal(search.tested(alone, plan)[2], search.tested(apart, plan)[2])
