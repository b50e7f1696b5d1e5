"""The data sets of MMEB-V2: where their files lie, which instructions their queries and candidates have, and how their rows are read.

The instructions are part of the protocol: they are those that VLM2Vec's evaluation puts before queries and candidates.
"""

from dataclasses import dataclass

IMAGE = (
    *("ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A", "ImageNet-R", "ObjectNet", "Country211"),
    *("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA", "TextVQA"),
    *("VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA"),
    *("FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS", "MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"),
)
QUESTION = "Given a video and a question, select the most accurate answer from the provided candidates. Return only the exact text of your "
QUESTION += "chosen answer. Question: "
CLIP = "Understand the content of the provided video."
MOMENT = "Find the clip that corresponds to the described scene in the given video:"
PAGE_QUERY = "Find a document image that matches the given query:"
PAGE = "Understand the content of the provided document image."


@dataclass(frozen=True)
class VideoSet:
    """A data set of clips, whose frames are pictures in a folder for each clip."""

    kind: str  # how a row is read: a method of mmeb_v2_video.Rows
    rows: str  # a regular expression of the file of its rows in video-tasks/data, without its ending
    hub: str  # where the rows come from
    frames: tuple[str, ...]  # folders in video-tasks/frames, the first that there is
    instruction: str
    target: str = ""  # the instruction of candidates that are clips
    columns: tuple[str, str] = ("video_id", "pos_text")  # of the clip, and of the text or label
    labels: str = ""  # the name of its list of classes in VLM2Vec's file of them


def _retrieval(folder: str, rows: str, hub: str, clip: str, text: str, instruction: str) -> VideoSet:
    """A set of clips that captions find; `rows` is a regular expression."""
    nested = f"video_ret/data/ziyan/video_retrieval/{folder}/frames"  # as the published archive unpacks
    return VideoSet("retrieval", rows, hub, (f"video_ret/{folder}", nested), instruction, CLIP, (clip, text))


def _classes(folder: str, hub: str, instruction: str, labels: str) -> VideoSet:
    return VideoSet("labelled", folder.lower(), hub, (f"video_cls/{folder}",), instruction, labels=labels)


def _answers(folder: str, rows: str, hub: str, kind: str) -> VideoSet:
    return VideoSet(kind, rows, hub, (f"video_qa/{folder}", f"video_qa/{folder.lower()}"), QUESTION)


VIDEO = {
    "K700": _classes("K700", "VLM2Vec/Kinetics-700", "Recognize the category of the video content.", "Kinetics-700"),
    "SmthSmthV2": VideoSet(
        "chosen",
        "ssv2",
        "VLM2Vec/SmthSmthV2",
        ("video_cls/SSv2",),
        "What actions or object interactions are being performed by the person in the video?",
    ),
    "HMDB51": _classes("HMDB51", "VLM2Vec/HMDB51", "What actions or objects interactions are the person in the video doing?", "HMDB51"),
    "UCF101": _classes("UCF101", "VLM2Vec/UCF101", "What activities or sports are being performed by the person in the video?", "UCF101"),
    "Breakfast": _classes(
        "Breakfast", "VLM2Vec/Breakfast", "Recognize the breakfast type that the person is cooking in the video.", "Breakfast"
    ),
    "MVBench": _answers("MVBench", r"mvbench/(?:json/)?\w+", "VLM2Vec/MVBench", "lettered"),
    "Video-MME": _answers("Video-MME", "video-mme", "VLM2Vec/Video-MME", "listed"),
    "NExTQA": _answers("NExTQA", "nextqa", "VLM2Vec/NExTQA (MC)", "numbered"),
    "EgoSchema": _answers("EgoSchema", "egoschema", "VLM2Vec/EgoSchema (Subset)", "spaced"),
    "ActivityNetQA": _answers("ActivityNetQA", "activitynetqa", "VLM2Vec/ActivityNetQA", "yes_or_no"),
    "DiDeMo": _retrieval(
        "DiDeMo", "didemo", "VLM2Vec/DiDeMo", "video", "caption", "Find a video that includes the following described scenes:"
    ),
    "MSR-VTT": _retrieval(
        "MSR-VTT",
        "msr-vtt",
        "VLM2Vec/MSR-VTT (test_1k)",
        "video_id",
        "caption",
        "Find a video that contains the following visual content:",
    ),
    "MSVD": _retrieval(
        "MSVD", "msvd", "VLM2Vec/MSVD", "video_id", "caption", "Find the video snippet that corresponds to the given summary:"
    ),
    "VATEX": _retrieval("VATEX", "vatex", "VLM2Vec/VATEX", "videoID", "enCap", "Select a video that fits the description provided:"),
    "YouCook2": _retrieval(
        "YouCook2",
        "youcook2(?:-val)?",
        "lmms-lab/YouCook2 (val)",
        "id",
        "sentence",
        "Find a video that demonstrates the following action while making a recipe:",
    ),
    "QVHighlight": VideoSet("moments", "qvhighlight", "VLM2Vec/QVHighlight", ("video_mret/QVHighlight",), MOMENT, CLIP),
    "Charades-STA": VideoSet(
        "moments", "charades_sta", "VLM2Vec/Charades-STA", ("video_mret/Charades_STA", "video_mret/Charades-STA"), MOMENT, CLIP
    ),
    "MomentSeeker": VideoSet(
        "sought",
        "momentseeker(?:_1k6)?",
        "VLM2Vec/MomentSeeker",
        ("video_mret/MomentSeeker",),
        "Find the clip that corresponds to the given text:",
        "Understand the content of the provided video clip.",
    ),
}
SOUGHT_BY_PICTURE = "Select the video clip that aligns with the given text and image:"
SOUGHT_BY_CLIP = "Find the clip that corresponds to the given sentence and video segment:"

VISDOC = {
    "arxivqa_test_subsampled_beir": "ViDoRe_arxivqa",
    "docvqa_test_subsampled_beir": "ViDoRe_docvqa",
    "infovqa_test_subsampled_beir": "ViDoRe_infovqa",
    "tabfquad_test_subsampled_beir": "ViDoRe_tabfquad",
    "tatdqa_test_beir": "ViDoRe_tatdqa",
    "shiftproject_test_beir": "ViDoRe_shiftproject",
    "syntheticDocQA_artificial_intelligence_test_beir": "ViDoRe_syntheticDocQA_artificial_intelligence",
    "syntheticDocQA_energy_test_beir": "ViDoRe_syntheticDocQA_energy",
    "syntheticDocQA_government_reports_test_beir": "ViDoRe_syntheticDocQA_government_reports",
    "syntheticDocQA_healthcare_industry_test_beir": "ViDoRe_syntheticDocQA_healthcare_industry",
    "esg_reports_human_labeled_v2": "ViDoRe_esg_reports_human_labeled_v2",
    "biomedical_lectures_v2": "ViDoRe_biomedical_lectures_v2_multilingual",
    "economics_reports_v2": "ViDoRe_economics_reports_v2_multilingual",
    "esg_reports_v2": "ViDoRe_esg_reports_v2_multilingual",
    "VisRAG-Ret-Test-ArxivQA": "VisRAG_ArxivQA",
    "VisRAG-Ret-Test-ChartQA": "VisRAG_ChartQA",
    "VisRAG-Ret-Test-MP-DocVQA": "VisRAG_MP-DocVQA",
    "VisRAG-Ret-Test-SlideVQA": "VisRAG_SlideVQA",
    "VisRAG-Ret-Test-InfoVQA": "VisRAG_InfoVQA",
    "VisRAG-Ret-Test-PlotQA": "VisRAG_PlotQA",
    "ViDoSeek-page-fixed": "ViDoSeek-page",
    "ViDoSeek-page": "ViDoSeek-page",
    "ViDoSeek": "ViDoSeek-doc",
    "MMLongBench-page-fixed": "MMLongBench-page",
    "MMLongBench": "MMLongBench-page",
    "MMLongBench-doc": "MMLongBench-doc",
}
"""The sets of pages by their folder in visdoc-tasks/data, or in visdoc-tasks."""
CORRECTED = {"ViDoSeek-page": "ViDoSeek-page-fixed", "MMLongBench": "MMLongBench-page-fixed"}
"""Folders whose judgements were corrected later, under another name; scores before and after are not comparable."""

SETS = (*IMAGE, *VIDEO, *dict.fromkeys(VISDOC.values()))
"""All 78."""
