"""MARVEL: the patches of a picture take the place of T5's token embeddings, so pictures and words are read together from the first layer.

With CLIP's last layer for a picture, v_0 .. v_P (v_0 of the class token, left out; no norm after it), patches p_i = W v_i + b, and the
token embeddings E of T5, T5 reads

    a text, or a query              E(words) E(</s>)
    a picture                       p_1 .. p_P
    a picture with a caption        E(<im_start>) p_1 .. p_P E(<im_end>) E("caption: " words) E(</s>)

and the vector is the decoder's state for its start token, made unit. From the paper's code: all of this, 128 tokens of text, three training
steps. (1) Adaptation, pictures against captions of 64 tokens: vision and projector are trained, T5 is frozen. (2) In-batch negatives: text
and projector are trained, CLIP is frozen. (3) The same with, for each query, a picture and a text that were mined as its hard negatives.

The three new tokens have the names that they have there, and take free rows of T5's table as the checkpoint has them. Chosen here: that
where a table has no free row (a tiny twin's), theirs are drawn around its mean with its spread; that the end token and "caption:" count as
text; that all patches of several pictures follow each other between one start and one end; and that a query with a picture, of which the
paper has none, is read as a document is.

The embeddings of the new tokens are rows of T5's table: they stay as they are in step 1, and are trained in steps 2 and 3, unless T5 is
trained through adapters, which the table has none of. The row of <im_patch> is always overwritten and never read. Dropout is active in
frozen towers too during training (T5 at 0.1, CLIP at 0).

Shapes: N items, L tokens and patches, V pictures, P patches of a picture, D width of T5.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from tokenizers import AddedToken

from mirepoix.models.backbones.checkpoints import LoadedCheckpoint, quiet
from mirepoix.models.backbones.pictures import pixels
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.encoder import Overlong, refuse_unread
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import Item, worded
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from mirepoix.models.retrievers.t5_clip import T5Clip, TokenSequences, patches_of

START, PATCH, END = TOKENS = ("<im_start>", "<im_patch>", "<im_end>")
ADDED = (PATCH, START, END)
"""The tokens in the order in which the published code adds them to T5's: the first takes the first free row of its table."""
CAPTION = "caption: "


class MarvelCollator:
    """Turns items into token ids, with a patch token for each patch of their pictures, and pixels, on the CPU."""

    def __init__(self, length: int, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        self.words = TokenSequences(text.tokenizer, length)
        self.image_processor = vision.image_processor
        self.start, self.patch, self.end = text.tokenizer.convert_tokens_to_ids(list(TOKENS))
        self.patches = patches_of(vision)

    def __call__(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> dict[str, torch.Tensor]:
        items = (*queries, *documents)
        refuse_unread(items, MarvelConfig)
        batch = self.words.batch([self._ids(item) for item in items])
        if pictures := pixels(items, self.image_processor):
            batch["pixel_values"] = pictures["pixel_values"]
        return batch

    def lengths(self, queries: Sequence[Item], documents: Sequence[Item] = ()) -> list[int]:
        """The tokens of each item, patches among them, as the attention mask counts them."""
        return [len(self._ids(item)) for item in (*queries, *documents)]

    def overlong(self, item: Item, role: Role) -> Overlong | None:
        text = worded(item)
        return self.words.overlong(CAPTION + text if item.images else text) if text else None

    def _ids(self, item: Item) -> list[int]:
        text, patches = worded(item), [self.patch] * (self.patches * len(item.images))
        if not patches:
            return self.words(text)
        return [self.start, *patches, self.end, *self.words(CAPTION + text)] if text else patches


class Marvel(T5Clip):
    """MARVEL over a T5 and a CLIP vision tower; the same weights encode queries and documents."""

    PROMPT = CAPTION
    config: MarvelConfig

    def __init__(self, config: MarvelConfig, text: LoadedCheckpoint, vision: LoadedCheckpoint):
        super().__init__(config, text, vision)
        _give_tokens(text)
        self.patch = text.tokenizer.convert_tokens_to_ids(PATCH)
        self.collator = self._reader = MarvelCollator(config.text_length, text, vision)

    @property
    def training_collator(self) -> MarvelCollator:
        return self._reader

    def tune(self, tuning: Tuning) -> Self:
        super().tune(tuning)
        assert isinstance(tuning, MarvelTuning)  # any other was refused
        self._reader = MarvelCollator(tuning.text_length or self.config.text_length, **self.parts)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        **vision: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embeds_NLD = self.text.shared(input_ids)
        if vision or self.training:  # of a blank picture, no patch has a place
            places_NL1 = (input_ids == self.patch)[:, :, None]
            embeds_NLD = embeds_NLD.masked_scatter(places_NL1, self.patches(**vision).to(embeds_NLD.dtype))
        states_N1D = self.text(
            inputs_embeds=embeds_NLD,
            attention_mask=attention_mask,
            decoder_input_ids=self.start(len(input_ids), input_ids.device),
            use_cache=False,
        ).last_hidden_state
        rows_N1D = F.normalize(states_N1D.float(), dim=-1)
        return rows_N1D, torch.ones(rows_N1D.shape[:2], dtype=torch.bool, device=rows_N1D.device)


def _give_tokens(text: LoadedCheckpoint) -> None:
    """Adds MARVEL's tokens to a T5 without them; a T5 that was saved with them keeps their embeddings."""
    tokenizer, model = text.tokenizer, text.model
    known = tokenizer.get_vocab()
    new = [token for token in TOKENS if token not in known]
    if not new:
        return
    tokenizer.add_tokens([AddedToken(token, special=True) for token in sorted(new, key=ADDED.index)], special_tokens=True)
    room = int(model.config.vocab_size)
    if len(tokenizer) > room:  # a published table has room, whose rows the tokens take as they are
        with quiet():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        table_TD, rows = model.shared.weight, torch.tensor(tokenizer.convert_tokens_to_ids(new))
        known_TD = table_TD[: int(rows.min())]
        drawn_TD = known_TD.mean(0) + known_TD.std(0) * torch.randn(len(rows), table_TD.shape[1])
        table_TD[rows[rows >= room]] = drawn_TD[rows >= room]
