"""Flask application behind ``classify serve``: the page, the JSON endpoint and their errors."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response, jsonify, render_template, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound, UnsupportedMediaType

from classify.deploy.features import bundle_parts
from classify.deploy.serve import Limits
from classify.deploy.serve.limits import RESPONSE_HEADERS, check_request
from classify.deploy.serve.predictor import PredictionQueue, ServerBusyError
from classify.deploy.serve.uploads import FIELD, UploadRequest, megabytes, uploaded_files
from classify.heads.registry import HEADS
from classify.heads.select import ENSEMBLE
from classify.io.grades import PredictResult, grades_json
from classify.io.results import printable_json
from featurize._version import __version__
from featurize.base.text import printable
from featurize.errors import FolioError

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

    from classify.deploy.serve.predictor import Prediction, Predictor
    from classify.io.bundle import Bundle


MAX_FORM_PARTS = 100
RETRY_AFTER = 5  # seconds


def make_app(
    predictor: Predictor, queue: PredictionQueue, *, folder: Path, host: str, limits: Limits
) -> Flask:
    """Return the application.

    Parameters
    ----------
    predictor : Predictor
        Source of the bundle's description and its examples; predictions go through the queue.
    queue : PredictionQueue
    folder : Path
        Private folder for uploaded files.
    host : str
        Host that the server is bound to.
    limits : Limits
    """
    app = Flask(__name__)
    app.request_class = UploadRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(
        UPLOAD_FOLDER=folder,
        MAX_CONTENT_LENGTH=limits.max_request,
        MAX_FORM_MEMORY_SIZE=100_000,
        MAX_FORM_PARTS=MAX_FORM_PARTS,
    )
    _add_request_hooks(app, host=host)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    about = app.config["ABOUT"] = describe_bundle(predictor, limits)

    @app.get("/")
    def page() -> str:
        return render_template(
            "page.html",
            about=about,
            metrics=metric_rows(about),
            max_upload=megabytes(limits.max_upload),
            max_request=megabytes(limits.max_request),
            max_pixels=f"{limits.max_pixels / 1e6:,.4g} megapixels",
        )

    @app.get("/about")
    def bundle_description() -> Response:
        return jsonify(about)

    @app.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok"})

    @app.get("/examples/<int:number>.webp")
    def example(number: int) -> Response:
        thumbnails = predictor.examples.pictures if predictor.examples is not None else ()
        if number >= len(thumbnails):
            raise NotFound
        return Response(thumbnails[number], mimetype="image/webp", headers={"Cache-Control": "private"})

    @app.post("/grade")
    @limiter.limit(f"{limits.rate} per minute")
    def grade() -> tuple[Response, int]:
        with queue.slot():
            return _grade(predictor, queue, limits=limits)

    _add_error_handlers(app, limiter, limits)
    return app


def _add_request_hooks(app: Flask, *, host: str) -> None:
    """Check every request before it is read, add security headers to every response, delete uploads."""

    @app.before_request
    def refuse_foreign_pages() -> tuple[Response, int] | None:
        headers = {name.lower(): value for name, value in request.headers}
        refused = check_request(request.method, headers, host=host)
        return None if refused is None else (jsonify({"error": refused[1]}), refused[0])

    @app.after_request
    def add_security_headers(response: AnyResponse) -> AnyResponse:
        for name, value in RESPONSE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.teardown_request
    def delete_uploads(error: BaseException | None) -> None:
        cast(UploadRequest, request).delete_uploads()


def _grade(predictor: Predictor, queue: PredictionQueue, *, limits: Limits) -> tuple[Response, int]:
    """Return the rows of `classify predict --json` for the images of this request."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(f'expected multipart/form-data with image files under "{FIELD}"')
    files, entry = uploaded_files(cast(UploadRequest, request), max_bytes=limits.max_upload)
    if not files:
        raise BadRequest(f'no file under "{FIELD}". Try: curl -F {FIELD}=@poster.jpg {request.url}')
    entry_keys = ["" if entry else str(k) for k in range(len(files))]
    predictions = queue.predict(files, entry_keys)
    rows = _rows(predictor, predictions)
    # The page asks for "rows": a browser reports every status other than 200 as an error of the page.
    if "rows" in request.args or any(prediction.grade.grade for prediction in predictions):
        return jsonify(rows), 200
    problems = [file.problem for file in files]
    reasons = problems if all(problems) else [prediction.grade.problem for prediction in predictions]
    return jsonify({"error": rows[0]["problem"], "grades": rows}), _status(reasons)


def _status(reasons: Sequence[str]) -> int:
    """Return the HTTP status of an upload without any prediction, from the reasons."""
    if any(reason.startswith(("too large", "too many pixels")) for reason in reasons):
        return 413
    if all(reason.startswith("not an image") for reason in reasons):
        return 415
    return 422


def _rows(predictor: Predictor, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    bundle = predictor.bundle
    result = PredictResult(
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        grades=tuple(prediction.grade for prediction in predictions),
        notes=(),
    )
    rows = grades_json(result)
    if predictor.examples is None:
        return rows
    return [
        {
            **row,
            "nearest": [
                {
                    "name": example.name,
                    "grade": example.grade,
                    "similarity": round(example.similarity, 4),
                    "picture": f"/examples/{example.example}.webp",
                }
                for example in prediction.similar
            ],
        }
        for row, prediction in zip(rows, predictions, strict=True)
    ]


def _add_error_handlers(app: Flask, limiter: Limiter, limits: Limits) -> None:
    """Return every error as JSON with a one-line message."""

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        message = _MESSAGES.get(code, error.description or error.name)
        if code == 413:
            message = f"more than {megabytes(limits.max_request)} in one request, or too many form parts"
        elif code == 429:
            message = f"more than {limits.rate} requests in a minute (--rate): try again later"
        response = jsonify({"error": printable(message)})
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.allow.update(error.valid_methods)
        if code == 429 and limiter.current_limit is not None:
            wait = math.ceil(limiter.current_limit.reset_at - time.time())
            response.headers["Retry-After"] = str(min(max(wait, 1), 60))
        return response, code

    @app.errorhandler(ServerBusyError)
    def busy(error: ServerBusyError) -> tuple[Response, int]:
        response = jsonify({"error": str(error)})
        response.headers["Retry-After"] = str(RETRY_AFTER)
        return response, 503

    @app.errorhandler(FolioError)
    def failed(error: FolioError) -> tuple[Response, int]:
        app.logger.error("%s", printable(str(error)))  # not sent: it may contain paths of this machine
        return jsonify({"error": "the server cannot predict at the moment; its log has the reason"}), 503

    @app.errorhandler(Exception)
    def unexpected_error(error: Exception) -> tuple[Response, int]:
        # Type and endpoint for a bug report; never the content of the request.
        app.logger.error("%s in %s", type(error).__name__, request.endpoint)
        return jsonify({"error": f"internal error ({type(error).__name__})"}), 500


_MESSAGES = {
    404: "not found. Available: /, /grade, /about, /health",
    405: "method not allowed: POST images to /grade, GET everything else",
}


def describe_bundle(predictor: Predictor, limits: Limits) -> dict[str, Any]:
    """Return the content of /about as plain JSON, without paths of this machine."""
    bundle = predictor.bundle
    examples = predictor.examples
    about: dict[str, Any] = printable_json(
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


def metric_rows(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return title and value of the main metrics of a bundle."""
    values = {title: about["metrics"].get(name) for name, title in _METRICS.items()}
    return [(title, f"{value:.3f}") for title, value in values.items() if isinstance(value, int | float)]


_METRICS = {
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
    return "ensemble of several heads" if head == ENSEMBLE else HEADS[head].title if head in HEADS else head


def _backbones(bundle: Bundle) -> list[str]:
    return list(dict.fromkeys(part.config["backbone"] for part in bundle_parts(bundle).values()))
