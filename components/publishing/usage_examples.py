"""The example code of model cards, one example for each way to open an exported folder; the tests run these examples."""

from collections.abc import Mapping
from typing import Any

_ITEMS = """
picture = Image.new("RGB", (112, 112), "red")
"""
_SCORED = """
vectors = torch.stack([encode("a small red circle"), encode(pictures=[picture]), encode("a small red circle", [picture])])
print(vectors @ vectors.T)
"""

_WHOLE = '''

def whole(picture, side=SIDE, fewest=4, most=16384):
    """The picture at whole tokens near its size, as in training; the processor resizes it again."""
    size, tokens = picture.size, picture.width * picture.height / side**2
    rounded = [max(1, round(edge / side)) for edge in size]
    if rounded[0] * rounded[1] > most:
        rounded = [max(1, math.floor(edge / math.sqrt(tokens / most) / side)) for edge in size]
    elif rounded[0] * rounded[1] < fewest:
        rounded = [math.ceil(edge * math.sqrt(fewest / tokens) / side) for edge in size]
    return picture.resize((rounded[0] * side, rounded[1] * side))
'''

_CHAT = """\
import torch
from PIL import Image
OPENED
images = AutoImageProcessor.from_pretrained(FOLDER, backend="pil")
WHOLE

def pool(text="", pictures=(), instruction=""):
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": content}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False)
    seen = images(images=PICTURES, return_tensors="pt") if pictures else {}
    for grid in seen.get("image_grid_thw", ()):
        prompt = prompt.replace("<|image_pad|>", "<|seen|>" * (int(grid.prod()) // images.merge_size**2), 1)
    tokens = tokenizer(prompt.replace("<|seen|>", "<|image_pad|>"), return_tensors="pt")
    kinds = (tokens.input_ids == model.config.image_token_id).int()
    with torch.inference_mode():
        states = model(**tokens, **seen, mm_token_type_ids=kindsPOSITIONS).last_hidden_state
    return POOLED


ENCODE
"""
_JOINT = """\
def encode(text="", pictures=(), instruction=""):
    return torch.nn.functional.normalize(pool(text, pictures, instruction), dim=-1)
"""
_LATE = """\
def encode(text="", pictures=(), instruction=""):
    seen = [pool(pictures=pictures)] if pictures else []
    said = [pool(text, (), instruction)] if text or instruction else []
    return torch.nn.functional.normalize(sum(seen + said), dim=-1)
"""
_OPENED = """\
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

FOLDER = "."  # this folder, or its name on the hub
model = AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(FOLDER)"""
_ADAPTED = """\
from peft import PeftModel
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

FOLDER = "."  # this folder, or its name on the hub
base = AutoModel.from_pretrained(BASE, dtype=torch.float32)
CAUSALmodel = PeftModel.from_pretrained(base, FOLDER).eval()
tokenizer = AutoTokenizer.from_pretrained(FOLDER)"""
_BOTH_WAYS = "base.config.get_text_config().is_causal = False  # every token attends to all\n"

_CLIP = """\
import torch
from PIL import Image
OPENED
images = AutoImageProcessor.from_pretrained(FOLDER, backend="pil")
WORDED

def encode(text="", pictures=(), instruction=""ROLE):
    words = WORDS
    parts = []
    with torch.inference_mode():
        if words:
            tokens = tokenizer(words, truncation=True, max_length=LENGTH, return_tensors="pt")
            parts.append(model.get_text_features(**tokens).pooler_output[0])
        if pictures:
            pixels = images(images=list(pictures), return_tensors="pt")
            parts.append(model.get_image_features(**pixels).pooler_output.mean(0))
    return torch.nn.functional.normalize(sum(parts), dim=-1)

"""
_JOINED = '" ".join(part.strip() for part in (instruction, text) if part.strip())'
_PROMPTED = '''PROMPTS = GIVEN


def worded(text, instruction, role):
    """A text after its instruction, or after the prompt of its role; without a text there is neither."""
    before = INSTRUCTED.format(instruction=instruction.strip()) if instruction.strip() else PROMPTS[role]
    return before + text if text.strip() else ""
'''

_SENTENCE = """\
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("."TRUSTED)  # this folder, or its name on the hub
"""
_SENTENCE_CHAT = """
documents = model.encode(["a small red circle", picture, {"text": "a small red circle", "image": picture}])
queries = model.encode_query(["a red circle"])  # without a task; with prompt_name=TASK worded for one of model.prompts
print(model.similarity(queries, documents))
"""
_SENTENCE_ADOPTED = """
documents = model.encode_document([DOCUMENT])
queries = model.encode_query(["a red circle"])  # without a task; with prompt_name=TASK worded for one of model.prompts
print(model.similarity(queries, documents))
"""
_SENTENCE_CLIP = """

def together(text, picture):
    \"\"\"The vector of a text with a picture: the normalised sum of both vectors before normalisation.\"\"\"
    parts = [model[0](model.preprocess([part]))["sentence_embedding"][0] for part in (text, picture)]
    return torch.nn.functional.normalize(sum(parts), dim=-1)


with torch.inference_mode():
    words, seen = (model.encode(part, convert_to_tensor=True) for part in ("a small red circle", picture))
    documents = torch.stack([words, seen, together("a small red circle", picture)])
queries = model.encode_query(["a red circle"])  # without a task; with prompt_name=TASK worded for one of model.prompts
print(model.similarity(queries, documents))
"""

_SENTENCE_LATE = """\
from sentence_transformers import MultiVectorEncoder  # PyLate opens the folder too: pylate.models.ColBERT(".")

model = MultiVectorEncoder(".")  # this folder, or its name on the hub
documents = model.encode_document(["a small red circle", "two large blue stars, at night"])
queries = model.encode_query(["a red circle"])  # without a task; of one: [model.prompts[TASK] + "a red circle"]
print(model.similarity(queries, documents))
"""

_OURS = """\
from io import BytesIO

from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.vectors import maxsim
from PIL import Image

encoder = load_encoder(".")  # this folder
with BytesIO() as file:
    Image.new("RGB", (112, 112), "red").save(file, "PNG")
    picture = file.getvalue()
items = [Item("text", text="a small red circle"), Item("both", text="a small red circle", images=(picture,))]
vectors = encoder.encode(items)
print(maxsim(encoder.encode(items[:1], role="query"), vectors))
"""


def chat(config: Any, side: int, base: str | None = None) -> str:
    """An example with transformers over a multimodal language model whose tokens are `side` pixels wide, or with PEFT over `base`."""
    counted = ", position_ids=torch.arange(tokens.input_ids.shape[1]).expand(3, 1, -1)"
    pooled = "states[0].mean(0)" if getattr(config, "pooling", "last") == "mean" else "states[0, -1]"
    code = _CHAT.replace("POSITIONS", counted if config.positions == "1d" else "").replace("POOLED", pooled)
    code = code.replace("WHOLE", _whole(config, side)).replace("PICTURES", _resized(config, "pictures"))
    code = code.replace("ENCODE", _LATE if getattr(config, "fusion", "joint") == "late" else _JOINT)
    blind = getattr(config, "attention", "causal") == "causal"
    shown = _math(config) + _opened(code, base).replace("CAUSAL", "" if blind else _BOTH_WAYS)
    return shown + _ITEMS + _SCORED


def _whole(config: Any, side: int) -> str:
    """The function that resizes a picture for the first of two times, where an encoder does."""
    return _WHOLE.replace("SIDE", str(side)) if config.resized_twice else ""


def _resized(config: Any, pictures: str) -> str:
    return f"[whole(picture) for picture in {pictures}]" if config.resized_twice else f"list({pictures})"


def _math(config: Any) -> str:
    return "import math\n\n" if config.resized_twice else ""


def clip(config: Any, base: str | None = None) -> str:
    """An example with transformers over CLIP, or with PEFT over `base`."""
    code = _CLIP.replace("WORDED", "").replace("ROLE", "").replace("WORDS", _JOINED).replace("LENGTH", str(config.max_length))
    return _opened(code, base).replace("CAUSAL", "") + _ITEMS + _SCORED


def two_towers(length: int, padded: bool, prompts: Mapping[str, str], instructed: str, place: str = "", base: str | None = None) -> str:
    """An example with transformers over a two-tower model in a folder of the export, or with PEFT over `base`.

    A text has the prompt of its role before it, or its instruction.
    """
    code = _CLIP.replace("ROLE", ', role="document"').replace("WORDS", "worded(text, instruction, role)")
    code = code.replace("LENGTH", f'{length}, padding="max_length"' if padded else str(length))
    opened = _opened(code, base).replace("CAUSAL", "").replace('FOLDER = "."', f'FOLDER = ".{place}"')
    worded = _PROMPTED.replace("INSTRUCTED", repr(instructed)).replace("GIVEN", repr(dict(prompts)))
    return opened.replace("WORDED", worded) + _ITEMS + _SCORED


def sentence_adopted(pictures: bool, trusted: bool) -> str:
    """An example with sentence-transformers over an adopted model."""
    opened = _SENTENCE.replace("TRUSTED", ", trust_remote_code=True" if trusted else "")
    document = "picture" if pictures else '"a small red circle"'
    opened = opened + _ITEMS.lstrip("\n") if pictures else opened.replace("from PIL import Image\n", "")
    return opened + _SENTENCE_ADOPTED.replace("DOCUMENT", document)


def _opened(code: str, base: str | None) -> str:
    return code.replace("OPENED", _OPENED if base is None else _ADAPTED.replace("BASE", base))


def ours() -> str:
    """An example with this project."""
    return _OURS


def sentence_chat(config: Any, side: int, counted: bool) -> str:
    """An example with sentence-transformers over a multimodal language model; with `counted`, the folder contains a module of its own."""
    opened = _SENTENCE.replace("TRUSTED", ", trust_remote_code=True" if counted else "")
    first = f"{_whole(config, side)}\n\n" if config.resized_twice else ""
    items = _ITEMS.lstrip("\n") + ("picture = whole(picture)\n" if config.resized_twice else "")
    return _math(config) + opened + first + items + _SENTENCE_CHAT.lstrip("\n")


def sentence_clip() -> str:
    """An example with sentence-transformers over CLIP."""
    return "import torch\n" + _SENTENCE.replace("TRUSTED", "") + _ITEMS.lstrip("\n") + _SENTENCE_CLIP


def sentence_late() -> str:
    """An example with sentence-transformers over the text side of late interaction."""
    return _SENTENCE_LATE
