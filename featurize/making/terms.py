"""What the workers of one extraction must have in common with the client, and how that is checked."""

from __future__ import annotations

import hashlib
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from featurize import __version__
from featurize.backbones import Backbone
from featurize.decode.rendering import Rendering
from featurize.errors import FolioError, WeightsError
from featurize.making.outcomes import packages
from featurize.weights import Weights, find_weights

PERMIT = "run-{token}.txt"  # in a folder of parts: there as long as the run that it names goes on
_ARITHMETIC = frozenset(
    {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "asimd", "sve"}
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every worker of a run must find as the client does, and how all of them work."""

    token: str  # of the run
    root: Path  # of the images, absolute
    some_files: tuple[tuple[Path, int], ...]  # with their sizes in bytes
    folders: tuple[Path, ...]  # of parts, absolute; none before there are parts
    versions: Mapping[str, str]
    needed: tuple[tuple[Backbone, Weights], ...]  # backbones with their weights
    rendering: Rendering
    most_views: int  # of one file
    engines: Mapping[Path, str]  # by store, once it is settled what computes
    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    workers: int | None  # decode processes; None: one for each thread of the Dask worker
    image_timeout: float
    strict: bool


def versions_here() -> dict[str, str]:
    """Return what must be equal wherever features of one store are made: versions, and our own sources."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {"folio": f"{__version__}, sources {digest.hexdigest()[:12]}", **packages()}


def check(terms: Terms) -> str:
    """Return why this worker is not to take part in a run, "" if it is."""
    host = f"on {platform.node()}"
    if reason := _other_versions(terms.versions, versions_here()):
        return f"{host} has {reason}. Install there what is installed here"
    if reason := unseen(terms):
        return f"{host} {reason}"
    for backbone, weights in terms.needed:
        try:
            weights_here(terms.token, backbone, weights)
        except FolioError as error:
            return f"{host}: {error}"
    return ""


def _other_versions(wanted: Mapping[str, str], here: Mapping[str, str]) -> str:
    differing = [
        f"{name} {here.get(name, 'none')} (this run: {wanted.get(name, 'none')})"
        for name in {**wanted, **here}
        if here.get(name) != wanted.get(name)
    ]
    return ", ".join(differing)


def unseen(terms: Terms) -> str:
    """Return what this worker does not see as the client does: the images, and the folders of parts."""
    for path, size in terms.some_files:
        try:
            found = path.stat().st_size
        except OSError as error:
            return f"does not see {path} ({error.strerror or error}). Mount {terms.root} there, by that path"
        if found != size:
            return f"sees another {path} than this machine. Mount {terms.root} there, by that path"
    for folder in terms.folders:
        permit, trial = permit_path(folder, terms.token), folder / f".{secrets.token_hex(8)}.tmp"
        try:
            if permit.read_text() != terms.token:
                return f"sees another {folder} than this machine. Mount {folder.parent} there, by that path"
            trial.write_bytes(b"")
            trial.unlink()
        except OSError as error:
            return (
                f"does not see {folder} as this machine does, or cannot write there "
                f"({error.strerror or error}). Mount {folder.parent} there, by that path"
            )
    return ""


def instructions() -> tuple[str, ...]:
    """Return what the processor's arithmetic depends on, as Linux' /proc/cpuinfo names it; () elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return tuple(sorted(_ARITHMETIC & set(line.partition(":")[2].split())))


def permit_path(folder: Path, token: str) -> Path:
    """Return where a run says that it goes on."""
    return folder / PERMIT.format(token=token)


@lru_cache(maxsize=8)
def weights_here(token: str, backbone: Backbone, weights: Weights) -> Weights:
    """Return where this machine has the weights that the client found; looked for once a run.

    Raises
    ------
    WeightsError
        If it has none, or others.
    """
    source: str | Path = weights.kind
    if weights.path is not None and weights.path.is_file():
        source = weights.path
    elif weights.kind == "file":
        assert weights.path is not None
        source = weights.path  # its absence is told by path
    found = find_weights(backbone, source, seed=weights.seed or 0)
    if found.sha256 != weights.sha256:
        raise WeightsError(
            f"its weights of {backbone.name} are others (SHA-256 {found.sha256[:12]}…; this run: "
            f"{weights.sha256[:12]}…). Put the same file there"
        )
    return found
