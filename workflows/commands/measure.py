"""The command `measure`: the scores of a run, whoever made it, by the judgements of its queries."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused

MEASURES = "nDCG@10,RR@10,R@10,R@100"


def add_measure(commands: Any) -> None:
    """The arguments of the command, among the commands of the command line."""
    measure = commands.add_parser(
        "measure", help="print the scores of a run, of TREC, BEIR, M-BEIR, mteb or ranx, by judgements of its queries"
    )
    measure.add_argument("run", type=Path, metavar="RUN", help="file of the run; it may be compressed by gzip, as that of the judgements")
    measure.add_argument("qrels", type=Path, metavar="QRELS", help="file of the judgements (qrels), of BEIR, TREC or M-BEIR")
    what = "measures as ir-measures names them: nDCG@K, nDCG(dcg='exp-log2')@K, RR@K, R@K, P@K, Success@K, AP@K (default: %(default)s)"
    measure.add_argument("--measures", default=MEASURES, metavar="M,...", help=what)
    what = "format of the run: trec, beir, mbeir, mteb or ranx (default: recognised by its columns, or as JSON)"
    measure.add_argument("--format", metavar="F", help=what)
    measure.add_argument("--part", metavar="SUBSET/SPLIT", help="the part of mteb's predictions to measure (default: the only one)")
    measure.add_argument("--json", action="store_true", help="print the scores as JSON, those of each query too")


def measure_command(arguments: argparse.Namespace) -> int:
    """Prints the mean of each measure; queries that are only in one of the files are named on standard error."""
    from mirepoix.components.evaluation.files.qrels import read_qrels
    from mirepoix.components.evaluation.files.runs import read_run
    from mirepoix.components.evaluation.files.scores import score
    from mirepoix.components.evaluation.scoring.measures import measures as parsed

    measures = parsed([name for name in arguments.measures.split(",") if name.strip()], "--measures")
    if not measures:
        raise Refused(f"--measures names none; give some, as {MEASURES}")
    run = read_run(arguments.run, arguments.format, arguments.part)
    found = score(run, read_qrels(arguments.qrels), measures)
    count = len(found.queries)
    if found.missing:
        lacking = f"{found.missing:,} of {count:,}"
        print(f"mirepoix: judged queries that are not in the run, each of which counts as 0: {lacking}", file=sys.stderr)
    if found.unjudged:
        print(f"mirepoix: queries of the run without judgements, which do not count: {found.unjudged:,}", file=sys.stderr)
    if arguments.json:
        counts = {"judged": count, "missing": found.missing, "unjudged": found.unjudged}
        print(json.dumps({"measures": found.means, "counts": counts, "queries": found.queries}, indent=1))
        return 0
    width = max(map(len, found.means))
    for name, mean in found.means.items():
        print(f"{name:<{width}}  {mean:.4f}")
    return 0
