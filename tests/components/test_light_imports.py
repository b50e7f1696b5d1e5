"""The process that runs a stage imports what the stage uses: what importing each module leaves out."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

LIBRARIES = ("torch", "transformers", "ray", "fastapi", "faiss", "mlflow", "deepspeed", "httpx", "peft", "bm25s")
"""What takes a tenth of a second and more, up to three seconds, to import."""
LEFT_OUT = {
    **dict.fromkeys(
        (
            "ingestion.sources",
            "ingestion.sources_config",
            "synthetic.world",
            "synthetic.world_config",
            "curation.curate",
            "curation.curate_config",
            "curation.row_checks",
            "curation.near_duplicates",
            "ray_tasks",
            "corpus.parts",
            "passages.passages",
            "passages.passages_config",
            "passages.vid2r_config",
            "passages.vid2r_run",
            "passages.written",
            "passages.verbalise",
            "passages.verbalise_config",
            "generation.writer",
            "generation.writer_config",
            "pairs.pairs",
            "pairs.pairs_config",
            "pairs.store",
            "training.augment_config",
            "training.batch_plan",
            "training.deepspeed_settings",
            "training.prefetch",
            "publishing.release_config",
        ),
        LIBRARIES,
    ),
    "generation.endpoint": tuple(sorted({*LIBRARIES} - {"httpx"})),
    "publishing.deploy": tuple(sorted({*LIBRARIES} - {"httpx"})),
    "generation.vllm": LIBRARIES,
    "training.train": ("transformers", "ray", "fastapi", "faiss", "mlflow", "deepspeed", "peft"),
}

# Each module is imported in a fork of its own.
CODE = """
    import importlib, json, os, sys
    import numpy, pyarrow.compute, pyarrow.fs, pyarrow.parquet, PIL.Image  # which nearly all use
    found = {}
    for module, libraries in json.loads(sys.argv[1]).items():
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            importlib.import_module(f"mirepoix.components.{module}")
            os.write(writer, json.dumps([name for name in libraries if name in sys.modules]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            found[module] = json.loads(told.read() or '["nothing, for it failed"]')
        os.waitpid(child, 0)
    print(json.dumps(found))
"""


def test_importing_a_stages_work_leaves_out_what_only_some_of_it_uses():
    command = [sys.executable, "-c", textwrap.dedent(CODE), json.dumps(LEFT_OUT)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert {module: names for module, names in json.loads(ended.stdout).items() if names} == {}, ended.stderr
