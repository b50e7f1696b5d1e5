"""`import mirepoix` gives its names without importing what they need."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import mirepoix
from mirepoix.serving.in_process.retriever import Retriever
from mirepoix.workflows.cluster.shipped_code import stage_code
from tests.workflows.recipes.small_quickstart import ROOT

LIGHT = """
    import json, sys
    import mirepoix
    heavy = ("torch", "transformers", "ray", "numpy", "pyarrow", "yaml", "PIL", "fastapi", "faiss")
    at_import = [name for name in heavy if name in sys.modules]
    listed = [name for name in dir(mirepoix) if name in ("open", "run", "mteb_encoder")]
    mirepoix.open, mirepoix.run, mirepoix.mteb_encoder
    try:
        mirepoix.open("/nowhere")
    except ValueError as error:
        refusal = str(error)
    after = [name for name in ("torch", "transformers", "ray", "fastapi", "faiss") if name in sys.modules]
    print(json.dumps([at_import, listed, refusal, after]))
"""


@pytest.mark.parametrize("layout", ["checkout", "job"])
def test_importing_the_package_imports_nothing_heavy_and_neither_does_a_refusal(layout, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LIGHT)]
    code = ROOT if layout == "checkout" else stage_code(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(code), "XDG_CACHE_HOME": str(tmp_path)}
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    refusal = "/nowhere is no folder here; give the folder of an encoder or of a checkpoint, or a hub id"
    assert json.loads(ended.stdout) == [[], ["mteb_encoder", "open", "run"], refusal, []]


def test_the_help_of_the_package_names_all_that_it_gives_in_a_checkout_and_installed():
    installed = (ROOT / "package" / "__init__.py").read_text()
    assert mirepoix.__doc__ in installed
    for name in ("mirepoix.run(", "mirepoix.mteb_encoder(", "mirepoix.open(", ".encode(", ".search(", ".similarity("):
        assert name in mirepoix.__doc__
    assert all(callable(getattr(Retriever, name)) for name in ("encode", "search", "similarity"))


def test_the_package_has_its_names_and_no_others():
    assert {"mteb_encoder", "open", "run"} <= set(dir(mirepoix))
    assert mirepoix.open.__module__ == "mirepoix.workflows.python.opening"
    names: dict[str, object] = {}
    exec("from mirepoix import *", names)
    assert mirepoix.__all__ == ["mteb_encoder", "run"] and "open" not in names, "Python's own stays what `open` means"
    with pytest.raises(AttributeError, match=r"^module 'mirepoix' has no attribute 'opne'$"):
        mirepoix.opne  # noqa: B018
