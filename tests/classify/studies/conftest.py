"""Cases as a comparison would make them."""

import pytest

from classify.protocol import make_plan
from classify.samples import load_samples
from classify.search import Settings, runner
from classify.studies.case import Case, study_pairs


@pytest.fixture
def make_case(make_store):
    """Return a case of one head on a synthetic store, or on samples, with tasks run in this process."""

    def make(head="logreg", *, heads=None, samples=None, seed=0, **store) -> Case:
        if samples is None:
            samples = load_samples(make_store(**store))
        settings = Settings(seed=seed, class_weight=None, dense_options={}, log_folder=None)
        return Case(
            samples=samples,
            head=head,
            heads=heads or (head,),
            pairs=study_pairs(samples, make_plan(samples, seed=seed), seed=seed),
            settings=settings,
            run=runner(memory=None, jobs=1),
        )

    return make
