"""Fixtures of all tests: a private Ray cluster, a browser, and a storage root that is not the developer's."""

import os
import shutil
import signal
import tempfile
from multiprocessing.util import Finalize

# The object stores of tests take any key; it is set in the environment of Ray's workers too, and no developer's key is used.
os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two processes test at once, and small tensors gain nothing from threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An idle worker of the tests' cluster is kept for ten seconds, so that the next test finds its imports done, torch's above all.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "10000")
# Ray's workers run at niceness 15, so that whatever else is tested at the same time would hold them up for seconds.
os.environ.setdefault("RAY_worker_niceness", "0")
# A process for each attempt of a training, which looks for notices of machines that are taken away: where one is given, it is started.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import pytest
from hypothesis import settings

settings.register_profile("shared-cores", deadline=None, max_examples=50)
settings.load_profile("shared-cores")


ON_RAY = "ray_cluster"
FIRST = ("tests/workflows/recipes/test_quickstart.py", "tests/workflows/cluster/")
"""The longest of the other files: begun first, so that no worker is left alone with one of them at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Groups for pytest-xdist: what uses the session's cluster is one, for one worker and one cluster; of the rest, each file is one.

    xdist assigns them in this order, with --no-loadscope-reorder: the cluster's, then FIRST, then the others as they are in the tree.
    """

    def rank(item) -> int:
        return 0 if ON_RAY in item.fixturenames else 1 if item.nodeid.startswith(FIRST) else 2

    if hasattr(config, "workerinput"):
        items.sort(key=rank)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(ON_RAY if ON_RAY in item.fixturenames else item.nodeid.partition("::")[0]))


def pytest_make_parametrize_id(val):
    """The beginning of a long text or of long bytes: ids are printed, and sent between processes."""
    if isinstance(val, str | bytes) and len(val) > 100:
        return val[:60] if isinstance(val, str) else repr(val[:20])
    return None


def pytest_configure(config):
    """A folder for temporary files of this process's own, with a name short enough for sockets: pytest-xdist's workers, who each start Ray,
    sweep and count the clusters of their own folder alone."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where `tmp_path` is, which outlives the session
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="mx", dir="/tmp")
    # Removed last: multiprocessing, whose own folder lies in it, removes that with priority -100.
    Finalize(None, shutil.rmtree, [tempfile.tempdir], {"ignore_errors": True}, exitpriority=-200)


def pytest_collection_finish(session):
    """Ends a worker whose pytest and pytest-xdist do not agree on groups, as 9.2 and 3.8: each test would be assigned on its own."""
    if getattr(session.config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist does not see the groups of tests"


@pytest.fixture
def ctrl_c():
    """SIGINT interrupts this process and those that it starts, as at a terminal; workers of pytest-xdist and shells' jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of the test session's own: six logical CPUs, token authentication, no dashboard."""
    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    with private_cluster(num_cpus=6) as address:
        yield address


FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window, as selenium drives it."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "pages are tested in Chromium; install chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def bucket():
    """An object store of its own: a function from a name to the URI of a folder in it."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{query}&allow_bucket_creation=true")
    filesystem.create_dir("bucket")
    yield lambda name: f"s3://bucket/{name}?{query}"
    server.stop()


@pytest.fixture(autouse=True)
def own_storage(tmp_path, monkeypatch):
    """Keeps tests out of the storage of the developer who runs them."""
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
