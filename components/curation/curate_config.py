"""The config of curation: limits of a row, near-duplicates, leakage."""

from dataclasses import dataclass
from typing import Literal

from mirepoix.components.curation.text_rules import TextRules
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

MERGED = ("exact duplicate", "near-duplicate", "judged twice", "member twice")
"""Reasons of rows whose content is kept in another row; they are counted as merged, not as rejected."""


@dataclass(frozen=True)
class NearRules:
    """Thresholds of near-duplicates: how much two texts must share, and how little two pictures may differ."""

    texts: float | None = option(0.9, "least share of pairs of neighbouring tokens that two texts have in common; null: only equal texts")
    pictures: int | None = option(
        8, "most of the 64 bits of a perceptual hash in which two pictures differ (up to 6 are never missed); null: only equal pictures"
    )
    rearranged: bool = option(True, "long pictures with the same eighths in another order are near-equal too")

    def __post_init__(self) -> None:
        if self.texts is not None and not 0.5 <= self.texts <= 1:
            raise Refused(f"near.texts is {self.texts}; give a share from 0.5 to 1, or null")
        if self.pictures is not None and not 0 <= self.pictures <= 8:
            raise Refused(f"near.pictures is {self.pictures}; give 0 to 8 of 64 bits, or null")


@dataclass(frozen=True)
class CurateConfig:
    """Limits and rules by which rows are kept, rejected or merged."""

    max_picture_bytes: int = option(20_000_000, "a larger picture is rejected before it is decoded")
    max_picture_pixels: int = option(25_000_000, "a picture with more pixels is rejected before it is decoded")
    max_pictures: int = option(256, "an item with more pictures and frames is rejected before they are decoded")
    picture_pixels: int | None = option(None, "a picture with more pixels is scaled down to as many and encoded anew; null: none is")
    text: TextRules = option(TextRules, "rules that a text is rejected by")
    near: NearRules = option(NearRules, "when two rows are near-equal")
    largest_kin: int = option(
        64, "largest group of candidates with an equal text, or equal pictures, that is written to kin/; larger groups are only counted"
    )
    exact_duplicates: Literal["merge", "keep"] = option(
        "merge",
        "merge: of equal candidates one is kept; keep: all are, for a benchmark whose ranks a merge would change, and near_duplicates too",
    )
    near_duplicates: Literal["merge", "keep"] = option(
        "merge", "merge: of near-equal candidates one is kept; keep: all are, and their pairs are in kin/"
    )
    unanswered: Literal["reject", "keep"] = option(
        "reject",
        "reject: a query is, if no answer of it is left; keep: outside the split train it stays, "
        "and counts as one without a hit; one whose source names no task, as BEIR's, has none without an answer, and is rejected before",
    )
    leakage: Literal["all", "queries", "off"] = option(
        "all",
        "all: training rows that are near-equal to a held-out query or to one of its answers are rejected; "
        "queries: only those that are near-equal to a held-out query; off: none",
    )
    shared_answers: int = option(
        16, "an answer of more queries than this is a class or an entry of a knowledge base, which training and test may share"
    )
    held_out: float = option(
        0.0,
        "share of the training queries that is moved to the split held_out, in sources that have only training rows; "
        "queries that are alike, or have answers alike, stay together",
    )
    # A limit decides the result too: a lower one is to be checked, though what is kept stays the same.
    max_rejected: float = option(0.2, "share of rejected candidates above which the stage fails, since the source as a whole is wrong then")
    batch_size: int = option(2000, "most rows that one task checks", decides=False)
    workers: int | None = option(None, "tasks that check at a time; null: as many as the cluster's CPUs", decides=False)

    def __post_init__(self) -> None:
        refuse_unknown(self)
        if self.exact_duplicates == "keep" and self.near_duplicates == "merge":
            raise Refused("exact_duplicates is keep, and near_duplicates is merge, which merges equal candidates too; give keep for both")
        for name in ("max_rejected", "held_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        for name in ("max_pictures", "batch_size", "picture_pixels", "shared_answers", "largest_kin", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
