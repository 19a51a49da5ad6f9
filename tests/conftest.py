"""What tests of both packages share."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before anything imports TensorFlow: its start-up messages are no test's concern.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Where pytest's own workers take the cores, threads of NumPy's libraries would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# A shell that starts the suite in the background has it ignore Ctrl-C, and so would the commands under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

# No test has a deadline, and CI fails on the same examples every time.
settings.register_profile("folio", max_examples=25, deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("long", settings.get_profile("folio"), max_examples=200)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    parser.addoption(
        "--long", action="store_true", help="also run the tests marked long, and more of each random test"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of examples before test modules, which read it, are imported."""
    settings.load_profile("long" if config.getoption("--long") else "folio")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``long`` unless ``--long`` is given."""
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def long(request) -> bool:
    """True with ``--long``: repeat more, use more networks."""
    return request.config.getoption("--long")


def _shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this run for temporary files, which pytest's workers have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Path:
    """Use a cache of the test run instead of the user's; its workers share it, to convert a network once."""
    folder = _shared_by_workers(tmp_path_factory) / "cache_of_this_run"
    folder.mkdir(exist_ok=True)
    os.environ["FOLIO_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets that lie beside the checkout and never in it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets in {folder}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory) -> Path:
    """The sample portfolio with three training pages a grade; read only, and drawn once for all workers."""
    from filelock import FileLock

    import make_sample

    folder = _shared_by_workers(tmp_path_factory)
    with FileLock(folder / "sample.lock"):
        make_sample.make_sample(folder / "sample", images=3, jobs=2)
    return folder / "sample"


@pytest.fixture(scope="session")
def bash() -> str:
    """The shell that scripts are written in."""
    found = shutil.which("bash")
    if found is None:
        pytest.skip("needs bash, which runs the scripts")
    return found


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: scripts/test installs Debian's when it runs as root there")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if root else [], handle_sigint=False
        )
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """Open an address and return Playwright's page; whatever it complains about or fetches fails the test.

    ``open_page(url, width=1280, dark=False)``: requests may go to the address's own file or host
    and to nothing else; ``data:`` and ``blob:`` addresses are no requests.
    """
    contexts, complaints = [], []

    def open_page(url: str, *, width: int = 1280, height: int = 900, dark: bool = False, **options: Any):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        own = (
            url.partition("#")[0].partition("?")[0]
            if url.startswith("file:")
            else "/".join(url.split("/")[:3])
        )

        def requested(request) -> None:
            if not request.url.startswith(("data:", "blob:", own)):
                complaints.append(f"request to {request.url[:200]}")

        def said(message) -> None:
            if message.type in ("error", "warning"):
                complaints.append(f"console {message.type}: {message.text[:500]}")

        def dialog(opened) -> None:  # what a script in a file name would do first
            complaints.append(f"dialog: {opened.message}")
            opened.dismiss()

        page.on("request", requested)
        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
        page.on("dialog", dialog)
        page.goto(url, wait_until="load")
        return page

    open_page.complaints = complaints  # type: ignore[attr-defined] - a test may expect one, and clear it
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def assert_accessible() -> Callable[[Any], None]:
    """Fail when axe-core finds something serious on a page."""

    def check(page: Any) -> None:
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(page).response["violations"]
        serious = [
            f"{item['id']}: {item['help']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
            for item in found
            if item["impact"] in ("serious", "critical")
            for node in item["nodes"][:3]
        ]
        assert serious == []

    return check


@dataclasses.dataclass
class DaskMachines:
    """A scheduler and workers, each a process of its own, as on several machines; on the loopback only."""

    folder: Path
    address: str = ""
    processes: list[subprocess.Popen] = dataclasses.field(default_factory=list)

    def scheduler(self, *, address: str = "") -> subprocess.Popen:
        """Start one, at an address or where there is room."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        port = address.rpartition(":")[2] or "0"
        process = self._start("scheduler", "--port", port, "--scheduler-file", file)
        self.address = address or json.loads(self._appears(file))["address"]
        if address:
            self._appears(file)
        return process

    def worker(
        self, *, cwd: Path | None = None, resources: str = "", preload: Path | None = None, **options: object
    ) -> subprocess.Popen:
        """Start one, of one thread; `options` are those of `stand_in.install`, without any it is as usual."""
        words = ["--no-nanny", "--nthreads", 1, "--memory-limit", 0, "--local-directory", self.folder]
        words += ["--resources", resources] if resources else []
        words += ["--preload", preload] if preload is not None else []
        words += ["--preload", ROOT / "tests" / "featurize" / "stand_in.py"] if options else []
        return self._start("worker", self.address, *words, cwd=cwd, STAND_IN=json.dumps(options))

    def wait_for_workers(self, n_workers: int) -> None:
        """Return when so many have come."""
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=90)

    def _start(self, kind: str, *words: object, cwd: Path | None = None, **environment: str) -> Any:
        log = (self.folder / f"{kind}{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, words)),
                    *("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.folder,
                env={**os.environ, **environment},
            )
        self.processes.append(process)
        return process

    @staticmethod
    def _appears(file: Path) -> str:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.05)
        return file.read_text()

    def close(self) -> None:
        """End all of them."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=30)


@pytest.fixture
def machines(tmp_path_factory) -> Iterator[DaskMachines]:
    """A Dask scheduler at `machines.address`; workers are started with `machines.worker(…)`."""
    found = DaskMachines(tmp_path_factory.mktemp("dask"))
    try:
        found.scheduler()
        yield found
    finally:
        found.close()
