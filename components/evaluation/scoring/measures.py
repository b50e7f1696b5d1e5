"""The names of measures, as ir-measures writes them: nDCG@10, RR@10, R@100, P@5, Success@1, AP@100.

    nDCG@k       discounted cumulative gain of the first k over that of the ideal ranking; the gain of a grade g is g, and 2^g - 1 in
                 nDCG(dcg='exp-log2')@k
    RR@k         one over the rank of the first relevant item among the first k
    R@k          share of the relevant items that are among the first k
    P@k          share of the first k that is relevant
    Success@k    1 if any relevant item is among the first k: the hit rate, which M-BEIR calls recall
    AP@k         average precision over the relevant items among the first k

Other spellings are read too: recall@5, hit@1, hit_rate@1, mrr@10, ndcg@10, map@100, precision@5, ndcg_linear@5, ndcg_exponential@5.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mirepoix.models.errors import Refused

KINDS = ("nDCG", "RR", "R", "P", "Success", "AP")
SPELLINGS = {
    **{kind.lower(): kind for kind in KINDS},
    "ndcg_linear": "nDCG",
    "ndcg_exponential": "nDCG",
    "mrr": "RR",
    "recall": "R",
    "precision": "P",
    "hit": "Success",
    "hit_rate": "Success",
    "map": "AP",
}
DEEPEST = 100_000
NAME = re.compile(r"(?P<kind>\w+)(\(dcg=(?P<quote>['\"]?)(?P<dcg>log2|exp-log2)(?P=quote)\))?@(?P<depth>[1-9]\d{0,5})")


@dataclass(frozen=True)
class Measure:
    """What is computed of a ranking, up to a depth."""

    kind: str
    depth: int
    exponential: bool = False

    @property
    def name(self) -> str:
        """The name as ir-measures writes it."""
        return f"{self.kind}{'(dcg=' + repr('exp-log2') + ')' if self.exponential else ''}@{self.depth}"

    @property
    def needs_all(self) -> bool:
        """Whether it depends on how many items are relevant in all, which is not known where answers are strings in passages."""
        return self.kind in ("nDCG", "R", "AP")


def measure(name: str) -> Measure:
    """The measure of that name, in any of the spellings; ValueError where there is none."""
    parts = NAME.fullmatch(name.strip())
    kind = SPELLINGS.get(parts["kind"].lower()) if parts else None
    linear_or_not = parts and parts["dcg"] and parts["kind"].lower() != "ndcg"  # it says of nDCG's gain what the name says of it already
    if parts is None or kind is None or linear_or_not or int(parts["depth"]) > DEEPEST:
        known = ", ".join(f"{each}@k" for each in KINDS)
        raise ValueError(f"{name!r}; give one of {known} or nDCG(dcg='exp-log2')@k, with k from 1 to {DEEPEST:,}, as nDCG@10")
    return Measure(kind, int(parts["depth"]), parts["dcg"] == "exp-log2" or parts["kind"].lower() == "ndcg_exponential")


def measures(names: Iterable[str], field: str) -> tuple[Measure, ...]:
    """The measures of the names, each once; refused, naming the field that has them, where one is none."""
    try:
        return tuple(dict.fromkeys(map(measure, names)))
    except ValueError as error:
        raise Refused(f"{field} has {error}") from None


def deepest(wanted: Iterable[Measure]) -> int:
    """The depth to which a ranking is needed."""
    return max(each.depth for each in wanted)
