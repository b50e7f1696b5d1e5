"""The names in M-BEIR: ids, tasks, data sets, splits, files and the pools in them; and its texts as UniIR formats them."""

import re
from collections.abc import Collection

FORMAT = "mbeir"
DATASETS = ("visualnews", "fashion200k", "webqa", "edis", "nights", "oven", "infoseek", "fashioniq", "cirr", "mscoco")  # by number
TASKS = ("t->i", "t->t", "t->it", "i->t", "i->i", "i->it", "it->t", "it->i", "it->it")  # by task_id
QUERIES_EACH, CANDIDATES_EACH = 500_000, 10_000_000  # ids that UniIR reserves for each data set
WORDS = {"i": "image", "t": "text"}
SPLITS = {"train": "train", "val": "validation", "test": "test"}
ROWS = r"\.jsonl(\.gz)?"
_BY_TASK = {
    0: ("visualnews", "mscoco", "fashion200k"),
    1: ("webqa",),
    2: ("edis", "webqa"),
    3: ("visualnews", "mscoco", "fashion200k"),
    4: ("nights",),
    6: ("oven", "infoseek"),
    7: ("fashioniq", "cirr"),
    8: ("oven", "infoseek"),
}
MEASURED = tuple(f"{name}_task{task}" for task, names in _BY_TASK.items() for name in names)
"""The sixteen data sets with their tasks whose local test pools together are the union."""
UNION = "union"
"""The pool of all that UniIR measures by, the test split's; those of the other splits are called union_train and union_val."""


def hashed(name: str, each: int) -> int:
    """The integer that UniIR maps "dataset:number" to; `each` is `QUERIES_EACH` or `CANDIDATES_EACH`."""
    dataset, _, number = name.partition(":")
    if not (dataset.isdecimal() and number.isdecimal() and int(number) < each):
        raise ValueError(f"{name!r} is no dataset:number with a number below {each}")
    return int(dataset) * each + int(number)


def unhashed(number: int, each: int) -> str:
    """The id that UniIR mapped to the number; the inverse of `hashed`."""
    return f"{number // each}:{number % each}"


def dataset(name: str) -> str:
    """The data set's number, the prefix of an id."""
    return name.partition(":")[0]


def dataset_name(name: str, file: str = "") -> str:
    """The data set that an id is of; that of its file of queries where M-BEIR has none of that number."""
    number = dataset(name)
    if number.isdecimal() and int(number) < len(DATASETS):
        return DATASETS[int(number)]
    return re.sub(r"_task\d+$", "", _queries_of(file)) or f"dataset{number}"


# Files and pools


def _stem(file: str) -> str:
    return re.sub(rf"(?i){ROWS}$", "", file.rpartition("/")[2]).removeprefix("mbeir_")


def _queries_of(file: str) -> str:
    """What a file of queries is called without its split, such as mscoco_task0; empty for one that is called otherwise."""
    named = re.fullmatch(rf"(.+)_({'|'.join(SPLITS)})", _stem(file))
    return "" if named is None or named[1].split("_")[0] == UNION else named[1]


def unit_of(file: str) -> str:
    """The data set in a file of queries, candidates or judgements, with its task: webqa_task1; one of queries to train on has all tasks."""
    stem = _stem(file.removesuffix(".txt")).removesuffix("_cand_pool").removesuffix("_qrels")
    return re.sub(rf"_({'|'.join(SPLITS)})$", "", stem)


def names_of(unit: str) -> tuple[str, str]:
    """The names by which a data set with its task is chosen: with the task, and without."""
    return unit, re.sub(r"_task\d+$", "", unit)


def task_of(unit: str) -> str:
    """The task of a data set, by the number in its name; empty if there is none."""
    number = re.search(r"_task(\d+)$", unit)
    return TASKS[int(number[1])] if number and int(number[1]) < len(TASKS) else ""


def expected_pool(unit: str, split: str) -> str:
    """The local pool of a data set and a split, as published: of MSCOCO there is one for each."""
    return f"{unit}_{split}" if names_of(unit)[1] == "mscoco" else unit


def pool_name(file: str) -> str:
    """The pool in a file of candidates: mscoco_task0_test in mbeir_mscoco_task0_test_cand_pool.jsonl."""
    name = _stem(file).removesuffix("_cand_pool")
    return UNION if name == f"{UNION}_test" else name


def pool_file(pool: str) -> str:
    """The file of a pool; the inverse of `pool_name`."""
    whole = pool == UNION or pool in {f"{UNION}_{split}" for split in SPLITS}
    return f"cand_pool/{'global' if whole else 'local'}/mbeir_{f'{UNION}_test' if pool == UNION else pool}_cand_pool.jsonl"


def query_file(pool: str, split: str) -> str:
    """What a file of queries is called whose queries search the local pool."""
    return f"mbeir_{pool.removesuffix(f'_{split}')}_{split}"


def query_pool(file: str, split: str, query: str, task: str, pools: Collection[str]) -> str:
    """The local pool that a query searches: that of its file and split, as MSCOCO's test has, else that of its file.

    In a file of several data sets, the pool is that of the query's data set and task. Training searches none.
    """
    by_task = f"{dataset_name(query)}_task{TASKS.index(task)}" if task in TASKS else ""
    names = (f"{name}{end}" for name in (_queries_of(file), by_task) if name for end in (f"_{split}", ""))
    return next((name for name in names if split != "train" and name in pools), "")


def is_read(pool: str, pools: Collection[str], splits: Collection[str]) -> bool:
    """Whether queries of these splits may search a local pool, or be judged by its candidates, given the names of all local pools.

    A pool whose name ends in a split is of that alone, and then the one without it is of the others.
    """
    of = [split for split in SPLITS if pool.endswith(f"_{split}")]
    return of[0] in splits if of else any(f"{pool}_{split}" not in pools for split in splits)


def is_read_whole(pool: str, splits: Collection[str]) -> bool:
    """Whether the global pool is of one of these splits, or of no single one."""
    of = {UNION: "test"} | {f"{UNION}_{split}": split for split in SPLITS}
    return pool not in of or of[pool] in splits


# Texts


def formatted(text: str) -> str:
    """A text as UniIR formats it: no white space and then no double quotes around it, its first letter a capital, and a stop at its end."""
    text = text.replace("\r", "").strip().strip('"')
    return _stopped(text[:1].upper() + text[1:])


def formatted_behind_prompt(text: str) -> str:
    """The text of a query as UniIR formats it together with the prompt before it: its beginning stays as it is."""
    return _stopped(text.replace("\r", "").rstrip().rstrip('"'))


def _stopped(text: str) -> str:
    return f"{text}." if text and text[-1] not in ".?!" else text
