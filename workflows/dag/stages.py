"""A stage of the DAG by the path of its work: what its key holds, what it claims, and where it runs."""

from collections.abc import Iterable
from typing import Any

from mirepoix.models.encoder_config import ARCHITECTURES, EncoderConfig, config_class
from mirepoix.workflows.runner.fingerprint import key_of, library_version
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.source_code import module_hashes, own_hash

COMPONENTS = "mirepoix.components"
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
ENCODING = ("torch", "transformers", "tokenizers", "pillow", "numpy", "pyarrow")
ADOPTING = ("sentence-transformers", "peft")
"""Besides those of ENCODING, what decides the vectors of an adopted model: the library that opens it, and that which merges its adapter."""
CURATING = ("pillow", "numpy", "pyarrow", "ray", "xxhash")
TRAINING = (*ENCODING, "deepspeed", "peft")
WRITING = (*ENCODING, "bm25s", *FAISS)
SEARCHING = (*FAISS, "numpy", "pyarrow", "pytrec-eval-terrier")
TRAININGS = {name: f"{COMPONENTS}.training.train:{name}" for name in ("adapt", "instruct", "refine")}
CHECK, FLOORS = "check", "floors"
BUSY = ("captions", "check", "floors", "pairs", "pairs-verbalised", "backbone", "evaluate", "release")
"""Stages that compute in their own process and claim a CPU, as does every index; the others wait for workers, which claim CPUs."""
LIGHT = ("sources", "curate", "captions", "check", "floors", "pairs", "pairs-verbalised", "evaluate", "release")
"""Stages whose process imports little, so that several of them share one; so does that of every index, and of every embedding, whose actors
import torch."""


def make_stage(
    name: str,
    work: str,
    config: Any,
    inputs: dict[str, str],
    libraries: tuple[str, ...],
    encoder: EncoderConfig | None = None,
) -> Stage:
    """A stage by the path of its work; if a module of it can open an encoder, its key holds the source of the given one, or of all.

    So it does with the versions of the libraries of an adopted one, where the stage encodes.
    """
    path = work if work.startswith(COMPONENTS) else f"{COMPONENTS}.{work}"
    opened: list[str] = []
    if "mirepoix.models.encoder" in module_hashes(path.partition(":")[0]):
        configs = [encoder] if encoder else [config_class(name) for name in ARCHITECTURES]
        opened = [each.ENCODER.partition(":")[0] for each in configs]
        if {*ENCODING} <= {*libraries} and any(each.OBEYS_THE_FOLDER for each in configs):
            libraries = tuple(dict.fromkeys((*libraries, *ADOPTING)))
    arguments = {"versions": encoding_versions(encoder, libraries)} if work == "embedding.embed:work" and encoder else {}
    busy = name in BUSY or name.startswith("index")
    return Stage(
        name,
        path,
        config,
        inputs,
        tuple(opened),
        libraries,
        num_cpus=float(busy),
        retries=1,
        light=name in LIGHT or name.startswith(("index", "embed")),
        on_head=name in TRAININGS,  # workers of a training may be on machines that are taken away, but not what starts them again
        uses_ray=not busy and name not in LIGHT,
        requires=(CHECK,) if "curate" in inputs.values() and name != CHECK else (),
        arguments=arguments,
    )


def encoding_versions(encoder: EncoderConfig, libraries: Iterable[str]) -> str:
    """A hash of the code and the libraries that run a retriever: its vectors are comparable with those of the same versions alone.

    That code is the retriever's with all that it imports, and the module that reads items as queries or as documents.
    """
    source = {**module_hashes(encoder.ENCODER.partition(":")[0]), "embed": own_hash(f"{COMPONENTS}.embedding.embed")}
    return key_of({"source": source, "libraries": {name: library_version(name) for name in libraries}})
