"""Text search with the encoder of a release."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from mirepoix.components.embedding.vectors import arrow_to_rows, rows_to_arrow
from mirepoix.components.passages.text_search import Texts, TextSearch
from mirepoix.models.encoder_config import Role
from mirepoix.models.item import Item, Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving import store
from mirepoix.serving.release import open_release
from mirepoix.serving.search.dense import build

_SHARD = 2048  # texts encoded between two saves, which a killed process can lose


class ReleaseRetriever:
    """Searches texts with the encoder of a release."""

    def __init__(self, target: str, batch_size: int = 64):
        release = open_release(target)
        self.encoder = release.open_encoder()
        self.name = f"{release.name} {release.version}"
        self.identity, self.batch_size = release.encoder, batch_size
        self.instruction = release.instructions.get("t->t", "")

    def index(self, texts: Texts, scratch: str) -> "TextSearch":
        """An index of the texts; vectors are saved in `scratch`, so that a restarted run does not encode them again."""
        vectors = RaggedRows.cat(list(self._shards(texts, scratch)))
        index = build(vectors, texts.ids, [Modality.TEXT] * len(texts), encoder=self.identity)
        return TextSearch(index, lambda questions: self._encoded(questions, "query", self.instruction))

    def _shards(self, texts: Texts, scratch: str) -> Iterator[RaggedRows]:
        rest = iter(texts)
        for number in range(0, len(texts), _SHARD):
            place = store.join(scratch, f"vectors-{number:09d}.arrow")
            shard, saved = list(islice(rest, _SHARD)), store.read(place)
            if saved is None:
                table = pa.table({"rows": rows_to_arrow(self._encoded(shard, "document", ""))})
                sink = pa.BufferOutputStream()
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
                saved = sink.getvalue().to_pybytes()
                store.write(place, saved)
            yield arrow_to_rows(pa.ipc.open_file(pa.BufferReader(saved)).read_all()["rows"])

    def _encoded(self, texts: Sequence[str], role: Role, instruction: str) -> RaggedRows:
        items = [Item(str(n), text, instruction=instruction) for n, text in enumerate(texts)]
        return self.encoder.encode(items, self.batch_size, role=role).ragged()
