"""What the page and ``/about`` say of a bundle: what grades, how well it did, what may be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from classify.head_choice import ENSEMBLE
from classify.heads import HEADS
from classify.results import plain_json
from featurize import __version__, printable

if TYPE_CHECKING:
    from classify.bundles.bundle import Bundle
    from classify.serving.app import Limits
    from classify.serving.grader import Grader


def described(grader: Grader, limits: Limits) -> dict[str, Any]:
    """Return plain JSON about a bundle, without a path of this machine."""
    bundle = grader.bundle
    examples = grader.examples
    about: dict[str, Any] = plain_json(
        {
            "bundle": printable(bundle.path.resolve().name),
            "dataset": printable(str(bundle.manifest.get("dataset", ""))),
            "classes": list(bundle.classes),
            "ordered": bool(bundle.manifest["ordered"]),
            "head": bundle.manifest["head"],
            "head_title": _title(str(bundle.manifest["head"])),
            "backbones": _backbones(bundle),
            "metrics": bundle.manifest.get("metrics") or {},
            "join": bundle.join or None,
            "examples": None if examples is None else len(examples.names),
            "limits": {
                "max_upload": limits.max_upload,
                "max_request": limits.max_request,
                "max_pixels": limits.max_pixels,
                "rate": limits.rate,
            },
            "version": __version__,
        }
    )
    return about


def figures(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of a bundle that people ask for, in words."""
    metrics = about["metrics"]
    found = []
    for name, said in _FIGURES.items():
        value = metrics.get(name)
        if isinstance(value, int | float):
            found.append((said, f"{value:.3f}"))
    return found


_FIGURES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-averaged F1",
    "quadratic_kappa": "Quadratic kappa",
    "roc_auc": "Area under the ROC curve",
    "log_loss": "Log loss",
    "calibration_error": "Calibration error",
    "cv_balanced_accuracy": "Balanced accuracy in cross-validation",
}


def _title(head: str) -> str:
    return "the vote of several heads" if head == ENSEMBLE else HEADS[head].title if head in HEADS else head


def _backbones(bundle: Bundle) -> list[str]:
    members = bundle.members or (bundle,)
    return list(dict.fromkeys(part.config["backbone"] for member in members for part in member.parts))
