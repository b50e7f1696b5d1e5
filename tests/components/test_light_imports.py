"""The process that runs a stage imports what the stage uses: what importing each module leaves out."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

LIBRARIES = ("torch", "transformers", "ray", "fastapi", "faiss", "mlflow", "deepspeed", "httpx", "peft", "bm25s")
"""What takes a tenth of a second and more, up to three seconds, to import."""
LEFT_OUT = {
    # What the process of every stage imports before its work, and that of its reports.
    **dict.fromkeys(("workflows.runner.board", "workflows.runner.task"), tuple(sorted({*LIBRARIES} - {"ray", "httpx"}))),
    **dict.fromkeys(
        (
            "components.ingestion.sources",
            "components.ingestion.sources_config",
            "components.synthetic.world",
            "components.synthetic.world_config",
            "components.curation.curate",
            "components.curation.curate_config",
            "components.curation.row_checks",
            "components.curation.near_duplicates",
            "components.ray_tasks",
            "components.corpus.parts",
            "components.passages.passages",
            "components.passages.passages_config",
            "components.passages.vid2r_config",
            "components.passages.vid2r_run",
            "components.passages.written",
            "components.passages.verbalise",
            "components.passages.verbalise_config",
            "components.generation.writer",
            "components.generation.writer_config",
            "components.pairs.pairs",
            "components.pairs.pairs_config",
            "components.pairs.store",
            "components.training.batches.augment_config",
            "components.training.batches.batch_plan",
            "components.training.engine.deepspeed_settings",
            "components.training.batches.prefetch",
            "components.publishing.release",
            "components.publishing.release_config",
        ),
        LIBRARIES,
    ),
    "components.generation.endpoint": tuple(sorted({*LIBRARIES} - {"httpx"})),
    "components.publishing.deploy": tuple(sorted({*LIBRARIES} - {"httpx"})),
    "components.generation.vllm": LIBRARIES,
    "components.training.workers.torch_backend": tuple(sorted({*LIBRARIES} - {"ray"})),
    "components.training.train": ("transformers", "ray", "fastapi", "faiss", "mlflow", "deepspeed", "peft"),
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
            importlib.import_module(f"mirepoix.{module}")
            os.write(writer, json.dumps([name for name in libraries if name in sys.modules]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            found[module] = json.loads(answer.read() or '["nothing, for it failed"]')
        os.waitpid(child, 0)
    print(json.dumps(found))
"""


def test_importing_a_stages_work_leaves_out_what_only_some_of_it_uses():
    command = [sys.executable, "-c", textwrap.dedent(CODE), json.dumps(LEFT_OUT)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert {module: names for module, names in json.loads(ended.stdout).items() if names} == {}, ended.stderr
