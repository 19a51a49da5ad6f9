"""Heads: scikit-learn estimators fitted on features, and the registry that lists them."""
