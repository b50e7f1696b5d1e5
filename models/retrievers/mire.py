"""MIRe: late interaction in which text never enters the vectors of a picture: it only weights the patches, and the score joins the two.

A query of words and pictures is the matrix Q = [E_g ; E_m ; E_t], a document D = [E_g ; E_m ; E_d] or E_d alone, all rows of unit norm, and
s(q, d) = sum over i in Q of max over j in D of q_i . d_j.

E_t, E_d  linear(BERT(tokens)), one encoder for both sides, with ColBERT's markers [Q] and [D]; E_d has no rows of punctuation in training,
          and has them in search unless `MireConfig.punctuation_rows` says otherwise, both as published
E_g, E_m  what `models/retrievers/query_pooling.py` makes of the pictures: 16 global rows of each, and 12 attentive rows of all, their
          patches weighted by E_t

CLIP sees the pictures, frozen and without gradients. Alignment trains the pooling alone, and leaves E_t out of the score of queries with
pictures (`MireTuning.text_rows`); fine-tuning trains text and pooling. Training pads queries with [MASK], which then counts as text
everywhere, in the weights of patches too (`MireTuning.query_padding`). BERT's dropout is active in all of training, also where BERT is
frozen. So far the paper and its code.

Chosen here:
- In search there is no [MASK]. The published code keeps it, with zeroed rows. These add nothing to a score, but each still adds the mean of
  all values to the pooled sum, which is divided by the number of real tokens: E_m would depend on how far a query is padded. In training
  no row is zeroed, so no weights were trained for it, and it is left out.
- Several pictures of an item share one attention over all their patches; each has its 16 global rows.
- An item of pictures alone has no text rows; its patches are weighted by the markers alone. An instruction counts as words.
- In alignment a query without pictures keeps its text rows: without any row it would have no score.
- The question that weights the patches of a document (`MireConfig.document_guide`) is read as a query of search in training too.
- Where a text checkpoint has no `linear` beside its BERT, as a ColBERT's has, it is drawn as the pooling is.

Shapes: N items, T rows an item, Q queries and guide, I items with pictures, V pictures, L tokens, P states of a picture (the first, then
its patches), v width of a state, D width of a row, M all vectors of a batch.
"""

import hashlib
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, quiet, refused_code
from mirepoix.models.backbones.pictures import blank_pixels, patch_count, pixels
from mirepoix.models.backbones.plain_tokens import PlainTokens, most_tokens
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.encoder import Encoder, Overlong, refuse_unread
from mirepoix.models.encoder_config import EncoderConfig, Role
from mirepoix.models.errors import Refused, first_line
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.feature_cache import FeatureCache
from mirepoix.models.retrievers.mire_config import FRAME, MireConfig, MireTuning
from mirepoix.models.retrievers.query_pooling import NOWHERE, Pooling, initialise


class MireCollator:
    """Turns items into token ids and pixels, and gives the position of each of an item's rows among all vectors of the batch.

    The order of the vectors: tokens of queries and guide, tokens of documents, global vectors of pictures, attentive vectors of items.
    With a tuning, items are read as in that stage of training.
    """

    def __init__(self, config: MireConfig, tokenizer: Any, image_processor: Any, patches: int, tuning: MireTuning | None = None):
        self.config = config
        self.tokenizer = tokenizer
        self.plain = PlainTokens(tokenizer)
        self.patches = patches
        self.image_processor = image_processor
        stage = MireTuning(query_padding="none") if tuning is None else tuning
        self.query_length = stage.query_length or config.query_length
        self.document_length = stage.document_length or config.document_length
        self.pads_queries = stage.query_padding == "mask"
        self.text_rows = stage.text_rows
        self.query_marker, self.document_marker = (self._marker(name) for name in ("query_marker", "document_marker"))
        signs = tokenizer(list(string.punctuation), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        without = tuning is not None or not config.punctuation_rows
        self.punctuation = {ids[0] for ids in signs} - {tokenizer.unk_token_id} if without else set()  # tokens without a document's row

    def _marker(self, name: str) -> int:
        token = getattr(self.config, name)
        marker: int | None = self.tokenizer.convert_tokens_to_ids(token)
        if marker is None or marker == self.tokenizer.unk_token_id:
            raise Refused(f"{name} is {token!r}, which the text tower's tokenizer does not have; give one of its tokens")
        return marker

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, MireConfig)
        query_tokens = [self._tokens(worded(query), self.query_marker, self.query_length) for query in queries]
        if self.pads_queries:
            query_tokens = [ids + [self.tokenizer.mask_token_id] * (self.query_length - len(ids)) for ids in query_tokens]
        guided = any(document.images for document in documents)
        guide = [self._tokens(self.config.document_guide, self.query_marker, self.config.query_length)] if guided else []
        document_tokens = [self._tokens(worded(document), self.document_marker, self.document_length) for document in documents]
        query_ids, query_mask = self._padded(query_tokens + guide)
        document_ids, document_mask = self._padded(document_tokens)
        length = max(query_ids.shape[1], document_ids.shape[1])
        batch = {
            "query_ids": query_ids,
            "document_ids": document_ids,
            "attention_mask": torch.cat([F.pad(mask, (0, length - mask.shape[1])) for mask in (query_mask[: len(queries)], document_mask)]),
            "guide_mask": query_mask[len(queries) :],
        }
        owners: list[int] = []
        if pictures := pixels(items, self.image_processor):
            owners = pictures["owners"].tolist()
            pictured = sorted(set(owners))
            batch |= {
                "pixel_values": pictures["pixel_values"],
                "picture_keys": torch.tensor([picture_key(picture) for item in items for picture in item.images]),
                "pictures": _table([[number for number, owner in enumerate(owners) if owner == item] for item in pictured]),
                "guides": torch.tensor([min(item, len(queries)) for item in pictured]),
            }
        starts = [place * query_ids.shape[1] for place in range(len(queries))]
        starts += [query_ids.numel() + place * document_ids.shape[1] for place in range(len(documents))]
        tokens = [
            [start + place for place, token in enumerate(ids) if self._scored(item, token, number < len(queries))]
            for number, (item, ids, start) in enumerate(zip(items, query_tokens + document_tokens, starts, strict=True))
        ]
        visual = self._visual(owners, query_ids.numel() + document_ids.numel())
        return batch | {"places": _table([visual.get(place, []) + text for place, text in enumerate(tokens)])}

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item's words, as the attention mask counts them, and the patches of its pictures.

        Where queries are filled up to their full length, as in training, that is the length of each.
        """
        read = [self.query_length if self.pads_queries else self._count(worded(query), self.query_length) for query in queries]
        read += [self._count(worded(document), self.document_length) for document in documents]
        return [count + self.patches * len(item.images) for count, item in zip(read, (*queries, *documents), strict=True)]

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        text, limit = worded(item), self.query_length if role == "query" else self.document_length
        if most_tokens(text) + FRAME <= limit or (tokens := len(self.plain(text)) + FRAME) <= limit:
            return None
        return Overlong(tokens, limit)

    def _count(self, text: str, length: int) -> int:
        return min(len(self.plain(text)), length - FRAME) + FRAME

    def _tokens(self, text: str, marker: int, length: int) -> list[int]:
        """The ids of a text with marker and separators, cut to the length; control tokens in it are split into letters."""
        return [self.tokenizer.cls_token_id, marker, *self.plain(text)[: length - FRAME], self.tokenizer.sep_token_id]

    def _padded(self, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = _table(sequences, self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.long)
        return ids, (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()

    def _scored(self, item: Item, token: int, is_query: bool) -> bool:
        """Whether a token of an item gives one of its rows."""
        if not is_query and token in self.punctuation:
            return False
        return not item.images or (bool(worded(item)) and (self.text_rows or not is_query))

    def _visual(self, owners: list[int], start: int) -> dict[int, list[int]]:
        """The positions of global and attentive vectors, by the index of the item that has the pictures."""
        each, heads = self.config.global_tokens, self.config.heads
        places: dict[int, list[int]] = {}
        for number, owner in enumerate(owners):
            places.setdefault(owner, []).extend(range(start + number * each, start + (number + 1) * each))
        start += len(owners) * each
        for number, owner in enumerate(sorted(places)):
            places[owner].extend(range(start + number * heads, start + (number + 1) * heads))
        return places


def picture_key(picture: bytes) -> int:
    """A hash of a picture's bytes that a tensor can hold."""
    return int.from_bytes(hashlib.sha256(picture).digest()[:8], "little", signed=True)


def _table(rows: Sequence[Sequence[int]], fill: int = NOWHERE) -> torch.Tensor:
    """Rows of numbers, padded to the longest."""
    width = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long).reshape(len(rows), width)


class Mire(Encoder):
    """MIRe over a ColBERT, or a BERT that becomes one, and a CLIP vision tower.

    The text tower holds `linear`, and is saved with it as a published ColBERT is; transformers opens such a folder as a BERT.
    """

    config: MireConfig
    text: Any  # a BertModel of transformers
    vision: Any  # a CLIPVisionModel of transformers

    def __init__(self, config: MireConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        _refuse_other_towers(text, vision)
        super().__init__(config, text=text, vision=vision)
        self.text.linear = torch.nn.Linear(text.model.config.hidden_size, config.width, bias=False)
        initialise(self.text.linear)
        self.pooling = Pooling(
            vision.model.config.hidden_size, config.width, config.heads, config.global_tokens, config.global_hidden, config.patch_hidden
        )
        self.collator = self._reader()
        self._training_collator = self._reader(MireTuning())
        self.feature_cache: FeatureCache | None = None

    @classmethod
    def prompt(cls, config: EncoderConfig) -> str:
        assert isinstance(config, MireConfig), config
        return config.document_guide

    @classmethod
    def build(cls, checkpoints: Mapping[str, Checkpoint], config: EncoderConfig) -> Self:
        assert isinstance(config, MireConfig), config
        encoder = super().build(checkpoints, config)
        published = published_linear(checkpoints["text"], config.width)
        if published is not None:
            encoder.text.linear.load_state_dict(published.state_dict())
        return encoder

    @classmethod
    def open(cls, folder: str | Path, config: EncoderConfig, trust_remote_code: bool = False) -> Self:
        assert isinstance(config, MireConfig), config
        text = Path(folder) / "text"
        if published_linear(Checkpoint(text), config.width) is None:
            raise Refused(f"{text} has no linear.weight, which would be random; give a whole encoder")
        return super().open(folder, config, trust_remote_code)

    def _reader(self, tuning: MireTuning | None = None) -> MireCollator:
        vision = self.parts["vision"]
        patches = patch_count(vision.model.config)
        collator = MireCollator(self.config, self.parts["text"].tokenizer, vision.image_processor, patches, tuning)
        most = self.text.config.max_position_embeddings
        for name in ("query_length", "document_length"):
            if getattr(collator, name) > most:
                raise Refused(f"{name} is {getattr(collator, name)}, and the text tower reads {most} tokens; give at most that")
        return collator

    @property
    def training_collator(self) -> MireCollator:
        return self._training_collator

    @property
    def towers(self) -> dict[str, torch.nn.Module]:
        return {"text": self.text, "pooling": self.pooling}

    @property
    def dimension(self) -> int:
        return self.config.width

    def tune(self, tuning: Tuning) -> Self:
        super().tune(tuning)
        assert isinstance(tuning, MireTuning)  # any other was refused
        self._training_collator = self._reader(tuning)
        self.feature_cache = FeatureCache(tuning.cached_pictures) if tuning.cached_pictures else None
        return self

    def train(self, mode: bool = True) -> Self:
        """Keeps the vision tower in eval mode, so that its features can be cached."""
        super().train(mode)
        self.vision.eval()
        return self

    def forward(
        self,
        query_ids: torch.Tensor,
        document_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        guide_mask: torch.Tensor,
        places: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        picture_keys: torch.Tensor | None = None,
        pictures: torch.Tensor | None = None,
        guides: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        queries = len(query_ids) - len(guide_mask)
        mask_QL = torch.cat([attention_mask[:queries, : query_ids.shape[1]], guide_mask])
        query_QLD = self._read(query_ids, mask_QL)
        document_NLD = self._read(document_ids, attention_mask[queries:, : document_ids.shape[1]])
        vectors = [query_QLD[: len(query_ids)].flatten(0, 1), document_NLD[: len(document_ids)].flatten(0, 1)]
        if states is None and (pictures is not None or self.training):
            states = self._cached_states(pixel_values, picture_keys)
        if pictures is not None and guides is not None:
            vectors += self.pooling(states, pictures, query_QLD[guides], mask_QL[guides])
        elif self.training:
            # Every rank must run the same modules in every batch, or their collectives disagree: a blank picture, which gives no row.
            one_11 = torch.ones(1, 1, dtype=torch.long, device=places.device)
            vectors += self.pooling(states, one_11 - 1, query_QLD[:1, :1], one_11)
        vectors_MD = torch.cat(vectors)
        mask_NT = places != NOWHERE
        rows_NTD = F.normalize(vectors_MD[places.clamp(min=0)].float(), dim=-1)
        return rows_NTD * mask_NT[..., None], mask_NT

    def _read(self, ids_NL: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
        """Vectors of all tokens before normalisation; in training of one token, which is no item's, where there are none.

        Every rank must read queries, and then documents, in every batch.
        """
        if not len(ids_NL):
            if not self.training:
                none_NLD: torch.Tensor = self.text.linear.weight.new_zeros(*ids_NL.shape, self.config.width)
                return none_NLD
            ids_NL, mask_NL = ids_NL.new_zeros(1, 1), mask_NL.new_ones(1, 1)
        vectors_NLD: torch.Tensor = self.text.linear(self.text(input_ids=ids_NL, attention_mask=mask_NL).last_hidden_state)
        return vectors_NLD

    def precomputed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the states of its pictures in place of their pixels: the vision tower is always frozen."""
        if "states" in batch or not ("pixel_values" in batch or self.training):
            return batch
        kept = {name: tensor for name, tensor in batch.items() if name not in ("pixel_values", "picture_keys")}
        return kept | {"states": self._cached_states(batch.get("pixel_values"), batch.get("picture_keys"))}

    @torch.no_grad()
    def _cached_states(self, pixel_values: torch.Tensor | None = None, picture_keys: torch.Tensor | None = None) -> torch.Tensor:
        """States of all pictures, or of a blank one where there are none; in training from the cache where it has them."""

        def compute(places: list[int]) -> torch.Tensor:
            return self._states(pixel_values[places] if places and pixel_values is not None else self._blank())

        if self.feature_cache is None or not self.training:
            return self._states(self._blank() if pixel_values is None else pixel_values)
        keys = [] if picture_keys is None else picture_keys.tolist()
        known = self.feature_cache.get(keys, compute, self.device)
        return (
            torch.stack(known).to(self.device)
            if known
            else torch.zeros(1, 2, self.vision.config.hidden_size, device=self.device, dtype=self.vision.dtype)
        )

    def _blank(self) -> torch.Tensor:
        return blank_pixels(self.vision.config, self.device)

    def _states(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """For each picture the first state of the last layer, then the patches' states of the layer before it.

        The layers are run one by one: transformers' `output_hidden_states` leaves hooks on a model, and these do not pickle.
        """
        last_VPv = self.vision.pre_layrnorm(self.vision.embeddings(pixel_values))
        for layer in self.vision.encoder.layers:
            before_VPv, last_VPv = last_VPv, layer(last_VPv, None)
        return torch.cat([last_VPv[:, :1], before_VPv[:, 1:]], dim=1)


def _refuse_other_towers(text: LoadedCheckpoint, vision: LoadedCheckpoint) -> None:
    """Refuses towers that are not read as a BERT and a CLIP vision tower are."""
    given = text.model.config.model_type
    lacks = [f"{name}_token" for name in ("cls", "sep", "mask", "pad") if getattr(text.tokenizer, f"{name}_token", None) is None]
    if lacks or text.model.config.is_encoder_decoder:
        why = f"without {', '.join(lacks)}" if lacks else "with a decoder"
        raise Refused(f"mire's text tower is a BERT, and the checkpoint holds a {given}, {why}; give a ColBERT, or a BERT")
    if (given := vision.model.config.model_type) != "clip_vision_model":
        raise Refused(f"mire's vision tower is a clip_vision_model, and the checkpoint holds a {given}; give another")


def published_linear(checkpoint: Checkpoint, width: int) -> torch.nn.Linear | None:
    """The projection in a ColBERT's checkpoint, or None for a BERT; transformers reads it without the rest of the checkpoint."""
    from transformers import AutoConfig, PreTrainedModel

    class Projection(PreTrainedModel):
        def __init__(self, config: Any):
            super().__init__(config)
            self.linear = torch.nn.Linear(config.hidden_size, width, bias=False)
            finish: Any = self.post_init  # transformers gives it no types
            finish()

    name = str(checkpoint.name)
    pinned: dict[str, Any] = {"revision": checkpoint.revision}
    load: Any = Projection.from_pretrained  # with `output_loading_info` it returns two values, which its annotation leaves out
    with quiet():
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, **pinned)
        except ValueError as error:
            raise Refused(f"checkpoint {name} cannot be opened: {refused_code(error) or first_line(error)}") from error
        projection, notes = load(name, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **pinned)
    for _, (published, _), _ in notes["mismatched_keys"]:
        raise Refused(f"width is {width}, and the linear.weight of {name} gives {published}; set encoder.width to that")
    linear: torch.nn.Linear = projection.linear
    return None if notes["missing_keys"] else linear
