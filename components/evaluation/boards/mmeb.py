"""MMEB and MMEB-V2, as VLM2Vec evaluates them (TIGER-AI-Lab/VLM2Vec, experiments/report_score_v2.py and experiments/public/eval).

A picture or clip is measured by whether the first result is right, among the query's own candidates, of which the first is the answer, or
among all of the data set; a page of a document by nDCG@5 with linear gain, among all pages of the data set. Candidates with equal scores
count against the query: in the published code the answer, which is listed first, wins every tie.
"""

from mirepoix.components.evaluation.boards.board import Board, BoardRow, Pool

IMAGE = (
    ("ImageNet-1K", "Classification", "IND"),
    ("N24News", "Classification", "IND"),
    ("HatefulMemes", "Classification", "IND"),
    ("VOC2007", "Classification", "IND"),
    ("SUN397", "Classification", "IND"),
    ("Place365", "Classification", "OOD"),
    ("ImageNet-A", "Classification", "OOD"),
    ("ImageNet-R", "Classification", "OOD"),
    ("ObjectNet", "Classification", "OOD"),
    ("Country211", "Classification", "OOD"),
    ("OK-VQA", "VQA", "IND"),
    ("A-OKVQA", "VQA", "IND"),
    ("DocVQA", "VQA", "IND"),
    ("InfographicsVQA", "VQA", "IND"),
    ("ChartQA", "VQA", "IND"),
    ("Visual7W", "VQA", "IND"),
    ("ScienceQA", "VQA", "OOD"),
    ("VizWiz", "VQA", "OOD"),
    ("GQA", "VQA", "OOD"),
    ("TextVQA", "VQA", "OOD"),
    ("VisDial", "Retrieval", "IND"),
    ("CIRR", "Retrieval", "IND"),
    ("VisualNews_t2i", "Retrieval", "IND"),
    ("VisualNews_i2t", "Retrieval", "IND"),
    ("MSCOCO_t2i", "Retrieval", "IND"),
    ("MSCOCO_i2t", "Retrieval", "IND"),
    ("NIGHTS", "Retrieval", "IND"),
    ("WebQA", "Retrieval", "IND"),
    ("FashionIQ", "Retrieval", "OOD"),
    ("Wiki-SS-NQ", "Retrieval", "OOD"),
    ("OVEN", "Retrieval", "OOD"),
    ("EDIS", "Retrieval", "OOD"),
    ("MSCOCO", "Grounding", "IND"),
    ("RefCOCO", "Grounding", "OOD"),
    ("RefCOCO-Matching", "Grounding", "OOD"),
    ("Visual7W-Pointing", "Grounding", "OOD"),
)
VIDEO = (
    ("K700", "V-CLS", "dataset"),
    ("SmthSmthV2", "V-CLS", "listed"),
    ("HMDB51", "V-CLS", "dataset"),
    ("UCF101", "V-CLS", "dataset"),
    ("Breakfast", "V-CLS", "dataset"),
    ("MVBench", "V-QA", "listed"),
    ("Video-MME", "V-QA", "listed"),
    ("NExTQA", "V-QA", "listed"),
    ("EgoSchema", "V-QA", "listed"),
    ("ActivityNetQA", "V-QA", "listed"),
    ("DiDeMo", "V-RET", "dataset"),
    ("MSR-VTT", "V-RET", "dataset"),
    ("MSVD", "V-RET", "dataset"),
    ("VATEX", "V-RET", "dataset"),
    ("YouCook2", "V-RET", "dataset"),
    ("QVHighlight", "V-MRET", "listed"),
    ("Charades-STA", "V-MRET", "listed"),
    ("MomentSeeker", "V-MRET", "listed"),
)
DOCUMENTS = (
    ("ViDoRe_arxivqa", "VDRv1"),
    ("ViDoRe_docvqa", "VDRv1"),
    ("ViDoRe_infovqa", "VDRv1"),
    ("ViDoRe_tabfquad", "VDRv1"),
    ("ViDoRe_tatdqa", "VDRv1"),
    ("ViDoRe_shiftproject", "VDRv1"),
    ("ViDoRe_syntheticDocQA_artificial_intelligence", "VDRv1"),
    ("ViDoRe_syntheticDocQA_energy", "VDRv1"),
    ("ViDoRe_syntheticDocQA_government_reports", "VDRv1"),
    ("ViDoRe_syntheticDocQA_healthcare_industry", "VDRv1"),
    ("ViDoRe_esg_reports_human_labeled_v2", "VDRv2"),
    ("ViDoRe_biomedical_lectures_v2_multilingual", "VDRv2"),
    ("ViDoRe_economics_reports_v2_multilingual", "VDRv2"),
    ("ViDoRe_esg_reports_v2_multilingual", "VDRv2"),
    ("VisRAG_ArxivQA", "VR"),
    ("VisRAG_ChartQA", "VR"),
    ("VisRAG_MP-DocVQA", "VR"),
    ("VisRAG_SlideVQA", "VR"),
    ("VisRAG_InfoVQA", "VR"),
    ("VisRAG_PlotQA", "VR"),
    ("ViDoSeek-page", "OOD"),
    ("ViDoSeek-doc", "OOD"),
    ("MMLongBench-page", "OOD"),
    ("MMLongBench-doc", "OOD"),
)

GROUPS = {"Classification": "I-CLS", "VQA": "I-QA", "Retrieval": "I-RET", "Grounding": "I-VG"}
"""What MMEB-V2 calls the groups of MMEB."""
SOURCE = "https://github.com/TIGER-AI-Lab/VLM2Vec"
MMEB = Board(
    "mmeb",
    "MMEB",
    SOURCE,
    tuple(BoardRow(name, name, "Success@1", (group, known), pool="listed") for name, group, known in IMAGE),
    pools=("listed",),
    means=(*GROUPS, "IND", "OOD"),
    overall="Overall",
)


def _own(pool: str) -> Pool:
    return "listed" if pool == "listed" else "dataset"


MMEB_V2 = Board(
    "mmeb_v2",
    "MMEB-V2",
    SOURCE,
    (
        *(BoardRow(name, name, "Success@1", (GROUPS[group], "Image"), pool="listed") for name, group, _ in IMAGE),
        *(BoardRow(name, name, "Success@1", (group, "Video"), pool=_own(pool)) for name, group, pool in VIDEO),
        *(BoardRow(name, name, "nDCG@5", (group, "VisDoc"), pool="dataset") for name, group in DOCUMENTS),
    ),
    pools=("board",),
    means=(
        *GROUPS.values(),
        "Image",
        *dict.fromkeys(group for _, group, _ in VIDEO),
        "Video",
        *dict.fromkeys(group for _, group in DOCUMENTS),
        "VisDoc",
    ),
)
