"""The losses against a slow reference written down from their definitions, in value and gradient: from all scores at once, and by tiles.

Shapes: B pairs, T rows an item, D width.
"""

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.losses import contrastive as losses
from mirepoix.models.losses.contrastive import COUNTS, FIGURES, Contrast, contrastive
from mirepoix.models.losses.objective import Objective
from mirepoix.models.vectors import Vectors, maxsim
from tests.models.losses.reference_losses import D, Paper, labels, toy, vectors

NOTHING = Objective()


@pytest.fixture(scope="module", params=["dense", "tiled"], autouse=True)
def way(request):
    """Every test computes the loss in both ways, whatever the size of its batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "DENSE", math.inf if request.param == "dense" else -1)
        yield request.param


@st.composite
def batches(draw):
    """Labels of a batch, and how many rows its items have."""
    pairs = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(0, 3), min_size=pairs, max_size=pairs))
    documents, hashes = pairs + sum(counts), draw(st.integers(1, 2))
    batch_labels = labels(
        codes=draw(st.lists(st.integers(1, 2), min_size=documents, max_size=documents)),
        counts=counts,
        keys=draw(st.lists(st.tuples(*[st.integers(0, 9)] * hashes), min_size=documents, max_size=documents)),
        scores=draw(st.lists(st.sampled_from([math.nan, -1.5, 0.25, 0.5, 0.75, 2.0]), min_size=documents, max_size=documents)),
        relevant=draw(st.none() | st.lists(st.sets(st.integers(-1, 6), min_size=1, max_size=3), min_size=pairs, max_size=pairs)),
    )
    return batch_labels, draw(st.integers(1, 3)), draw(st.integers(0, 99))


@st.composite
def objectives(draw):
    in_batch = draw(st.booleans())
    return Objective(
        in_batch=in_batch,
        modality_mask=in_batch and draw(st.booleans()),
        symmetric=in_batch and draw(st.booleans()),
        margin=draw(st.sampled_from([None, None, -0.2, 0.0, 0.3])),
        hardness=draw(st.sampled_from([0.0, 2.0])),
        widths=draw(st.sampled_from([(), (), (2,), (4, 1)])),
        distillation=draw(st.sampled_from(["none", "kl", "margin_mse"])),
        distillation_weight=draw(st.sampled_from([0.3, 1.0])),
        teacher_temperature=draw(st.sampled_from([1.0, 2.5])),
    )


def learnt(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of a loss."""
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


@settings(deadline=None, max_examples=50)
@given(batch=batches(), objective=objectives())
def test_value_gradient_and_figures_are_those_of_the_definition(batch, objective):
    batch_labels, rows, seed = batch
    queries, documents = vectors(len(batch_labels.counts_B), rows, seed), vectors(len(batch_labels.keys_MH), rows, seed + 1000)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    paper = Paper(queries, documents, batch_labels, objective, scale)
    contrast = contrastive(queries, documents, batch_labels, objective, scale)
    leaves = queries.rows_NTD, documents.rows_NTD, scale
    expected = paper.loss()
    assert contrast.loss.dtype == torch.float64 and contrast.loss.item() == pytest.approx(expected.item(), abs=1e-9)
    for found, wanted in zip(learnt(contrast.loss, *leaves), learnt(expected, *leaves), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)

    pairs = range(len(queries))
    negatives = [paper.negatives(i) for i in pairs]
    counted = [paper.similarity(i, j).item() for i in pairs for j in negatives[i]]
    judged = [paper.similarity(i, i).item() > max(paper.similarity(i, j).item() for j in negatives[i]) for i in pairs if negatives[i]]
    likely = [paper.candidate(i, j) and paper.likely(i, j) for i in pairs for j in range(len(documents))]
    possible = [len(documents) - 1 if objective.in_batch else len(paper.own[i]) for i in pairs]
    codes = batch_labels.codes_M.tolist()
    figures = {
        "accuracy": sum(judged) / len(judged) if judged else 0.0,
        "positive_similarity": sum(paper.similarity(i, i).item() for i in pairs) / len(pairs),
        "negative_similarity": sum(counted) / len(counted) if counted else 0.0,
        "effective_negatives": len(counted) / len(pairs),
        "share_masked": sum(1 - len(own) / most for own, most in zip(negatives, possible, strict=True) if most) / len(pairs),
        "masked_by_margin": sum(likely) / len(pairs),
        "temperature": 1 / 3,
        "rows_without_negatives": sum(not own for own in negatives),
        "rows_without_teacher": len(pairs) - len(paper.taught()) if objective.distillation != "none" else 0,
    }
    assert {name: float(getattr(contrast, name)) for name in figures} == pytest.approx(figures, abs=1e-6)
    assert {"loss", *figures} == set(FIGURES) and set(COUNTS) < set(figures)
    rows_by_modality = [
        [sum(codes[i] == code for i in pairs), sum(codes[i] == code and not negatives[i] for i in pairs)] for code in range(8)
    ]
    assert contrast.modalities_C2.tolist() == rows_by_modality
    assert {"loss", *figures, "modalities_C2"} == {field.name for field in fields(Contrast)}


def of(queries: Vectors, documents: Vectors, batch_labels, objective: Objective = NOTHING, temperature: float = 0.1) -> Contrast:
    return contrastive(queries, documents, batch_labels, objective, 1 / temperature)


MAMCL = Objective(modality_mask=True)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mamcl_over_one_modality_is_info_nce(symmetric):
    batch, batch_labels, objective = toy(5), labels([3] * 5), Objective(symmetric=symmetric)
    masked = of(*batch, batch_labels, replace(objective, modality_mask=True))
    assert masked.loss.item() == of(*batch, batch_labels, objective).loss.item() > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_mamcl_over_two_modalities_is_the_mean_of_each_alone_weighted_by_count(symmetric):
    queries, documents = toy(5)
    objective = Objective(modality_mask=True, symmetric=symmetric)
    codes = torch.tensor([1, 3, 1, 1, 3])
    alone = {code: of(queries[codes == code], documents[codes == code], labels([code] * n), objective) for code, n in ((1, 3), (3, 2))}
    together = of(queries, documents, labels(codes.tolist()), objective)
    assert together.loss.item() == pytest.approx((3 * alone[1].loss.item() + 2 * alone[3].loss.item()) / 5)


def test_only_an_exactly_equal_modality_is_a_negative_under_the_mask():
    text_and_picture, picture = 3, 2
    contrast = of(*toy(3), labels([text_and_picture, picture, picture]), MAMCL)
    assert int(contrast.rows_without_negatives) == 1
    assert float(contrast.effective_negatives) == pytest.approx(2 / 3)


def test_rows_without_a_negative_are_counted_by_modality_and_the_share_that_masks_leave_out_is_told():
    text, picture, video = 1, 2, 4
    contrast = of(*toy(4), labels([video, text, text, picture]), MAMCL)
    assert contrast.modalities_C2.tolist() == [[0, 0], [2, 0], [1, 1], [0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert float(contrast.share_masked) == pytest.approx((1 + 2 / 3 + 2 / 3 + 1) / 4)
    more = of(*toy(2), labels([picture, picture]), MAMCL)
    assert more.modalities_C2[picture].tolist() == [2, 0]
    assert float(more.share_masked) == 0


def test_a_row_that_could_be_contrasted_with_nothing_has_nothing_masked():
    contrast = of(vectors(3), vectors(6, seed=1), labels([1] * 3, [2, 0, 1]), Objective(in_batch=False))
    assert float(contrast.share_masked) == 0 and float(of(*toy(1), labels([1])).share_masked) == 0


def test_hard_negatives_of_another_modality_are_masked_too_a_rows_own_and_others():
    codes = [1, 2, *(1, 2, 3), *(2, 2, 1)]  # the first query has two of its modality among all, the second three
    batch_labels = labels(codes, [3, 3])
    assert float(of(*toy(2, negatives=3), batch_labels, MAMCL).effective_negatives) == pytest.approx((2 + 3) / 2)
    assert float(of(*toy(2, negatives=3), batch_labels).effective_negatives) == 7
    assert int(of(*toy(2, negatives=3), labels([1, 2, *(2, 2, 2), *(4, 2, 4)], [3, 3]), MAMCL).rows_without_negatives) == 1


def test_a_row_without_negatives_gives_no_loss_and_no_gradient_and_is_counted():
    queries, documents = toy(1)
    contrast = of(queries, documents, labels([1]), temperature=0.03)
    contrast.loss.backward()
    assert contrast.loss.item() == 0 and not queries.rows_NTD.grad.any() and not documents.rows_NTD.grad.any()
    assert int(contrast.rows_without_negatives) == 1 and float(contrast.accuracy) == 0


def test_without_other_pairs_a_query_sees_its_own_documents_alone():
    """UniVL-DR's second stage: a softmax of three."""
    queries, documents = toy(4, negatives=2)
    three = [[i, 4 + 2 * i, 5 + 2 * i] for i in range(4)]
    logits = torch.stack([documents.rows_NTD[three[i], 0] @ queries.rows_NTD[i, 0] for i in range(4)]) / 0.1
    contrast = of(queries, documents, labels([1] * 4, [2] * 4), Objective(in_batch=False))
    assert contrast.loss.item() == pytest.approx(F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)).item())


def test_with_other_pairs_a_query_sees_all_documents_of_the_batch():
    """MARVEL's last step: a softmax over three documents of each pair."""
    queries, documents = toy(4, negatives=2)
    contrast = of(queries, documents, labels([1] * 4, [2] * 4))
    assert contrast.loss.item() == pytest.approx(F.cross_entropy(maxsim(queries, documents) / 0.1, torch.arange(4)).item())
    assert float(contrast.effective_negatives) == 11


def test_a_pair_without_hard_negatives_among_pairs_with_some_teaches_nothing_when_it_is_alone():
    queries, documents = vectors(3), vectors(6, seed=1)
    contrast = of(queries, documents, labels([1] * 3, [2, 0, 1]), Objective(in_batch=False))
    contrast.loss.backward()
    assert int(contrast.rows_without_negatives) == 1 and float(contrast.effective_negatives) == 1
    assert [bool(gradient.any()) for gradient in queries.rows_NTD.grad] == [True, False, True]


def test_a_copy_of_the_positive_is_a_negative_only_if_it_is_not_labelled_relevant():
    batch, keys = toy(3), [7, 7, 8]
    kept, masked = of(*batch, labels([1] * 3, keys=keys)), of(*batch, labels([1] * 3, keys=keys, relevant=[{7}, {7}, {8}]))
    assert float(kept.effective_negatives) == 2 and float(masked.effective_negatives) == pytest.approx(4 / 3)


def test_a_document_is_known_by_any_of_its_hashes():
    batch_labels = labels([1] * 3, keys=[(1, 7), (2, 7), (3, 3)], relevant=[{1, 7}, {2, 7}, {3}])
    assert float(of(*toy(3), batch_labels).effective_negatives) == pytest.approx(4 / 3)


def test_a_document_of_another_pair_that_answers_this_query_is_masked_for_this_query_alone():
    batch_labels = labels([1, 1], [1, 1], keys=[10, 11, 12, 13], relevant=[{10, 11, 13}, {11}])
    assert float(of(*toy(2, negatives=1), batch_labels).effective_negatives) == pytest.approx((1 + 3) / 2)


def test_a_query_that_a_document_is_known_to_answer_is_no_negative_of_it():
    queries, documents = toy(2)
    contrast = of(queries, documents, labels([1, 1], keys=[10, 11], relevant=[{10, 11}, {11}]), Objective(symmetric=True))
    similarity = maxsim(queries, documents) / 0.1
    second_query = (similarity[1].logsumexp(0) - similarity[1, 1]).item()
    first_document = (similarity[:, 0].logsumexp(0) - similarity[0, 0]).item()
    assert contrast.loss.item() == pytest.approx((second_query + first_document) / 4), "the other two have no negative"


def at(*angles: float) -> Vectors:
    """Vectors in a plane, so that scores are the cosines of the differences."""
    radians = torch.tensor(angles, dtype=torch.float64) * math.pi / 180
    return Vectors.single(torch.stack([radians.cos(), radians.sin()], 1))


def test_what_scores_above_the_positive_and_a_margin_is_no_negative_and_is_counted():
    queries, documents = at(0), at(60, 10, 50, 90)  # cosines 0.5, 0.98, 0.64, 0
    found = {margin: of(queries, documents, labels([1], [3]), Objective(margin=margin)) for margin in (None, 0.2, 0.0, -0.6)}
    assert [float(contrast.effective_negatives) for contrast in found.values()] == [3, 2, 1, 0]
    assert [float(contrast.masked_by_margin) for contrast in found.values()] == [0, 1, 2, 3]
    assert int(found[-0.6].rows_without_negatives) == 1 and found[-0.6].loss.item() == 0


def test_a_query_that_a_document_is_taken_to_answer_is_no_negative_of_it_either():
    queries, documents = at(0, -20), at(30, 5)  # the first query is nearer to the second document than to its own
    open_, masked = (of(queries, documents, labels([1, 1]), Objective(symmetric=True, margin=margin)) for margin in (None, 0.1))
    similarity = maxsim(queries, documents) / 0.1
    wrong = [(row.logsumexp(0) - row[own]).item() for row, own in ((similarity[0], 0), (similarity[:, 1], 1))]
    right = [(row.logsumexp(0) - row[own]).item() for row, own in ((similarity[1], 1), (similarity[:, 0], 0))]
    assert open_.loss.item() == pytest.approx(sum(wrong + right) / 4)
    assert masked.loss.item() == pytest.approx(sum(right) / 4)


def test_hardness_draws_on_the_negatives_that_are_near_and_only_among_themselves():
    queries, documents = at(0), at(10, 30, 80)
    leaf = documents.rows_NTD.requires_grad_()

    def pulls(hardness: float) -> torch.Tensor:
        contrast = of(queries, documents, labels([1], [2]), Objective(hardness=hardness), temperature=1.0)
        return learnt(contrast.loss, leaf)[0][1:, 0].norm(dim=-1)

    easy, hard = pulls(0.0), pulls(4.0)
    assert hard[0] > easy[0] and hard[1] < easy[1]
    alike = of(at(0), at(10, 40, -40), labels([1], [2]), Objective(hardness=4.0))
    assert alike.loss.item() == pytest.approx(of(at(0), at(10, 40, -40), labels([1], [2])).loss.item()), "equal ones weigh one each"


def test_at_several_widths_the_loss_is_the_mean_over_these_and_the_whole():
    queries, documents = toy(4, rows=2)
    several = of(queries, documents, labels([1] * 4), Objective(widths=(2, 3)))
    each = [of(queries.truncated(width), documents.truncated(width), labels([1] * 4)) for width in (2, 3)]
    whole = of(queries, documents, labels([1] * 4))
    assert several.loss.item() == pytest.approx((whole.loss.item() + sum(contrast.loss.item() for contrast in each)) / 3)
    assert float(several.positive_similarity) == float(whole.positive_similarity)


TAUGHT = {"codes": [1, 1], "counts": [2, 1]}


@pytest.mark.parametrize(("kind", "temperature"), [("kl", 0.1), ("margin_mse", 1.0)])
def test_a_student_that_scores_as_its_teacher_has_nothing_to_learn_of_it(kind, temperature):
    queries, documents = vectors(2), vectors(5, seed=1)
    objective = Objective(distillation=kind, distillation_weight=1.0, teacher_temperature=temperature)
    similarity = maxsim(queries, documents).detach()
    same = torch.stack([similarity[0, 0], similarity[1, 1], similarity[0, 2], similarity[0, 3], similarity[1, 4]])
    other = same.flip(0)
    assert of(queries, documents, replace(labels(**TAUGHT), scores_M=same), objective).loss.item() == pytest.approx(0, abs=1e-12)
    shifted = replace(labels(**TAUGHT), scores_M=same + 5)
    assert of(queries, documents, shifted, objective).loss.item() == pytest.approx(0, abs=1e-12), "it is differences that count"
    assert of(queries, documents, replace(labels(**TAUGHT), scores_M=other), objective).loss.item() > 0.01


@pytest.mark.parametrize("kind", ["kl", "margin_mse"])
def test_a_pair_of_which_a_score_is_missing_is_left_out_of_distillation_and_counted(kind):
    queries, documents = vectors(3), vectors(6, seed=1)
    objective = Objective(distillation=kind, distillation_weight=1.0)
    batch_labels = labels([1] * 3, [2, 1, 0], scores=[1.0, 2.0, 3.0, 0.5, math.nan, 0.0])
    contrast = of(queries, documents, batch_labels, objective)
    contrast.loss.backward()
    assert int(contrast.rows_without_teacher) == 2
    assert [bool(gradient.any()) for gradient in queries.rows_NTD.grad] == [False, True, False]
    rest = of(queries, documents, replace(batch_labels, scores_M=torch.full((6,), math.nan)), objective)
    assert rest.loss.item() == 0 and int(rest.rows_without_teacher) == 3


def test_equal_scores_are_no_success():
    same = Vectors.single(F.normalize(torch.ones(4, D), dim=-1))
    contrast = of(same, same, labels([1] * 4), temperature=0.03)
    assert float(contrast.accuracy) == 0 and contrast.loss.item() == pytest.approx(math.log(4), abs=1e-5)


def test_figures_carry_no_graph():
    contrast = contrastive(*toy(3), labels([1] * 3), NOTHING, torch.tensor(10.0, requires_grad=True))
    assert contrast.loss.requires_grad
    assert not any(getattr(contrast, field.name).requires_grad for field in fields(Contrast) if field.name != "loss")
