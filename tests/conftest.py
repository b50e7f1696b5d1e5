"""What all tests share: a private Ray cluster, a browser, and a storage root that is not the developer's."""

import os
import shutil

# The object stores of tests take any key; it stands in the environment of Ray's workers too, and nobody's own key is used.
os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from hypothesis import settings

settings.register_profile("shared-cores", deadline=None, max_examples=50)
settings.load_profile("shared-cores")


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


@pytest.fixture(autouse=True)
def own_storage(tmp_path, monkeypatch):
    """No test writes into the storage of whoever runs it."""
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
