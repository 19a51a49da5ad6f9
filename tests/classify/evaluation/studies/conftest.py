"""Cases as a comparison would make them."""

import pytest

from classify.data.samples import load_samples
from classify.evaluation.studies.base import StudyContext, study_folds
from classify.model_selection.grid_search import SearchSettings, make_runner
from classify.model_selection.protocol import make_protocol


@pytest.fixture
def make_case(make_store):
    """Return a case of one head on a synthetic store, or on samples, with tasks run in this process."""

    def make(head="logreg", *, heads=None, samples=None, seed=0, **store) -> StudyContext:
        if samples is None:
            samples = load_samples(make_store(**store))
        settings = SearchSettings(seed=seed, class_weight=None, dense_options={}, log_folder=None)
        return StudyContext(
            samples=samples,
            head=head,
            heads=heads or (head,),
            folds=study_folds(samples, make_protocol(samples, seed=seed), seed=seed),
            settings=settings,
            run=make_runner(cache=None, jobs=1),
        )

    return make
