"""The application behind ``classify serve``: a page, a JSON endpoint, and what both refuse."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response, jsonify, render_template, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound, UnsupportedMediaType

from classify.deploy.serve.grader import GradingQueue, ServerBusyError
from classify.deploy.serve.limits import HEADERS, refusal
from classify.deploy.serve.uploads import FIELD, UploadRequest, megabytes, upload_files
from classify.heads.registry import HEADS
from classify.heads.select import ENSEMBLE
from classify.io.grades import PredictResult, grades_json
from classify.io.results import plain_json
from featurize._version import __version__
from featurize.base.text import printable
from featurize.errors import FolioError

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

    from classify.deploy.serve.grader import Answer, Grader
    from classify.io.bundle import Bundle


FILES_AT_ONCE = 4  # of the largest size, in one request
REQUESTS_AT_ONCE = 8  # of the largest size
MOST_PARTS = 100  # of a form
RETRY_AFTER = 5  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may send."""

    max_upload: int = 25_000_000  # bytes of one file
    max_pixels: int = 200_000_000  # of one picture
    rate: int = 1200  # requests a minute from one address

    @property
    def max_request(self) -> int:
        """Bytes of one request."""
        return FILES_AT_ONCE * self.max_upload

    @property
    def most_held(self) -> int:
        """Bytes of all requests that are there at a time, from which on further ones arrive one by one."""
        return REQUESTS_AT_ONCE * self.max_request


def make_app(grader: Grader, queue: GradingQueue, *, folder: Path, host: str, limits: Limits) -> Flask:
    """Return the application.

    Parameters
    ----------
    grader : Grader
        What is asked about; the queue asks it.
    queue : GradingQueue
    folder : Path
        Private, for files while they are graded.
    host : str
        What the server is bound to.
    limits : Limits
    """
    app = Flask(__name__)
    app.request_class = UploadRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(
        UPLOAD_FOLDER=folder,
        MAX_CONTENT_LENGTH=limits.max_request,
        MAX_FORM_MEMORY_SIZE=100_000,
        MAX_FORM_PARTS=MOST_PARTS,
    )
    _guard(app, host=host)
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")
    about = app.config["ABOUT"] = describe_bundle(grader, limits)

    @app.get("/")
    def page() -> str:
        return render_template(
            "page.html",
            about=about,
            figures=figures(about),
            max_upload=megabytes(limits.max_upload),
            max_request=megabytes(limits.max_request),
            max_pixels=f"{limits.max_pixels / 1e6:,.4g} megapixels",
        )

    @app.get("/about")
    def tell_about() -> Response:
        return jsonify(about)

    @app.get("/health")
    def health() -> Response:
        return jsonify({"status": "ok"})

    @app.get("/examples/<int:number>.webp")
    def example(number: int) -> Response:
        pictures = grader.examples.pictures if grader.examples is not None else ()
        if number >= len(pictures):
            raise NotFound
        return Response(pictures[number], mimetype="image/webp", headers={"Cache-Control": "private"})

    @app.post("/grade")
    @limiter.limit(f"{limits.rate} per minute")
    def grade() -> tuple[Response, int]:
        with queue.place():
            return _graded(grader, queue, limits=limits)

    _errors(app, limiter, limits)
    return app


def _guard(app: Flask, *, host: str) -> None:
    """Have every request looked at before it is read, and every answer say what a browser may do with it."""

    @app.before_request
    def only_own_pages() -> tuple[Response, int] | None:
        headers = {name.lower(): value for name, value in request.headers}
        refused = refusal(request.method, headers, host=host)
        return None if refused is None else (jsonify({"error": refused[1]}), refused[0])

    @app.after_request
    def say_what_is_allowed(response: AnyResponse) -> AnyResponse:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.teardown_request
    def forget_uploads(error: BaseException | None) -> None:
        cast(UploadRequest, request).forget()


def _graded(grader: Grader, queue: GradingQueue, *, limits: Limits) -> tuple[Response, int]:
    """Return the rows of `classify predict --json` for the images of this request."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(f'expected multipart/form-data with image files under "{FIELD}"')
    listed, entry = upload_files(cast(UploadRequest, request), most_bytes=limits.max_upload)
    if not listed:
        raise BadRequest(f'no file under "{FIELD}". Try: curl -F {FIELD}=@poster.jpg {request.url}')
    together = ["" if entry else str(k) for k in range(len(listed))]
    answers = queue.ask(listed, together=together)
    rows = _rows(grader, answers)
    # The page asks for rows alone: a browser would report any other status as an error of the page.
    if "rows" in request.args or any(answer.grade.grade for answer in answers):
        return jsonify(rows), 200
    problems = [one.problem for one in listed]
    reasons = problems if all(problems) else [answer.grade.problem for answer in answers]
    return jsonify({"error": rows[0]["problem"], "grades": rows}), _status(reasons)


def _status(reasons: Sequence[str]) -> int:
    """Return what it is called when nothing of an upload can be graded, for these reasons."""
    if any(reason.startswith(("too large", "too many pixels")) for reason in reasons):
        return 413
    if all(reason.startswith("not an image") for reason in reasons):
        return 415
    return 422


def _rows(grader: Grader, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    bundle = grader.bundle
    graded = PredictResult(
        bundle=bundle.path,
        head=str(bundle.manifest["head"]),
        store=str(bundle.manifest.get("store", "")),
        classes=bundle.classes,
        grades=tuple(answer.grade for answer in answers),
        notes=(),
    )
    rows = grades_json(graded)
    if grader.examples is None:
        return rows
    return [
        {
            **row,
            "nearest": [
                {
                    "name": near.name,
                    "grade": near.grade,
                    "similarity": round(near.similarity, 4),
                    "picture": f"/examples/{near.example}.webp",
                }
                for near in answer.nearest
            ],
        }
        for row, answer in zip(rows, answers, strict=True)
    ]


def _errors(app: Flask, limiter: Limiter, limits: Limits) -> None:
    """Have every error be one line of JSON."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        code = error.code or 500
        line = _SAID.get(code, error.description or error.name)
        if code == 413:
            line = f"more than {megabytes(limits.max_request)} in one request, or too many parts of a form"
        elif code == 429:
            line = f"more than {limits.rate} requests in a minute (--rate): wait a little"
        response = jsonify({"error": printable(line)})
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
        app.logger.error("%s", printable(str(error)))  # it may name paths, which are no client's business
        return jsonify({"error": "the server cannot grade at the moment; it has said why where it runs"}), 503

    @app.errorhandler(Exception)
    def broken(error: Exception) -> tuple[Response, int]:
        # The kind of error and where, for a bug report; never what was sent.
        app.logger.error("%s in %s", type(error).__name__, request.endpoint)
        return jsonify({"error": f"a fault of the server ({type(error).__name__})"}), 500


_SAID = {
    404: "nothing there. There are: /, /grade, /about, /health",
    405: "not done this way: POST images to /grade, GET the others",
}


def describe_bundle(grader: Grader, limits: Limits) -> dict[str, Any]:
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
