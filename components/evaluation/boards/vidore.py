"""ViDoRe v1, v2 and v3, as mteb evaluates them (embeddings-benchmark/mteb, mteb/benchmarks, VIDORE, VIDORE_V2, VIDORE_V3).

nDCG has linear gain; mteb's mean over the languages of a data set is the mean over its queries, which each language has as many of.
"""

from mirepoix.components.evaluation.boards.board import Board, BoardRow

SETS = (
    ("ArxivQA", "v1", "VidoreArxivQARetrieval"),
    ("DocVQA", "v1", "VidoreDocVQARetrieval"),
    ("InfoVQA", "v1", "VidoreInfoVQARetrieval"),
    ("TabFQuAD", "v1", "VidoreTabfquadRetrieval"),
    ("TAT-DQA", "v1", "VidoreTatdqaRetrieval"),
    ("Shift Project", "v1", "VidoreShiftProjectRetrieval"),
    ("AI", "v1", "VidoreSyntheticDocQAAIRetrieval"),
    ("Energy", "v1", "VidoreSyntheticDocQAEnergyRetrieval"),
    ("Government", "v1", "VidoreSyntheticDocQAGovernmentReportsRetrieval"),
    ("Healthcare", "v1", "VidoreSyntheticDocQAHealthcareIndustryRetrieval"),
    ("ESG Reports", "v2", "Vidore2ESGReportsRetrieval"),
    ("Economics Reports", "v2", "Vidore2EconomicsReportsRetrieval"),
    ("Biomedical Lectures", "v2", "Vidore2BioMedicalLecturesRetrieval"),
    ("ESG Reports, human-labeled", "v2", "Vidore2ESGReportsHLRetrieval"),
    ("Finance (EN)", "v3", "Vidore3FinanceEnRetrieval"),
    ("Industrial", "v3", "Vidore3IndustrialRetrieval"),
    ("Computer Science", "v3", "Vidore3ComputerScienceRetrieval"),
    ("Pharmaceuticals", "v3", "Vidore3PharmaceuticalsRetrieval"),
    ("HR", "v3", "Vidore3HrRetrieval"),
    ("Finance (FR)", "v3", "Vidore3FinanceFrRetrieval"),
    ("Physics", "v3", "Vidore3PhysicsRetrieval"),
    ("Energy, v3", "v3", "Vidore3EnergyRetrieval"),
)
DEPTHS = {"v1": 5, "v2": 5, "v3": 10}
VIDORE = Board(
    "vidore",
    "ViDoRe",
    "https://github.com/embeddings-benchmark/mteb",
    tuple(
        BoardRow(name, name, f"nDCG@{DEPTHS[version]}", (f"ViDoRe {version}",), pool="dataset", mteb=task) for name, version, task in SETS
    ),
    pools=("dataset",),
    means=tuple(f"ViDoRe {version}" for version in DEPTHS),
    overall="All",
    note="v3 has two more data sets, Telecom and Nuclear, which are not public: its mean is over the eight that are",
)
