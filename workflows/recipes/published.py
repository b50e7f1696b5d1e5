"""Recipes with the settings that were published, on published checkpoints. They need GPUs, and have not been run here for lack of them.

Settings come from the paper or its code; where neither gives one, the docstring of the recipe lists it as chosen here, and a table in
docs/retrievers.md names the files in which it was looked for (`CHOSEN_HERE`). Two rules of all
recipes are ours: negatives are gathered over all workers; and known answers of a query, and their kin, are not its negatives
(`mask_relevant`, `mask_kin`). Queries have no instructions where a paper has none (MiMIC, MIRe, MARVEL, UniVL-DR). Negatives that a corpus
brings are read only by a training that sets `negatives`.
"""

from dataclasses import replace
from typing import Any, Literal

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.components.passages.vid2r_config import Vid2rConfig
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from mirepoix.models.retrievers.mimic_config import MimicConfig, MimicTuning
from mirepoix.models.retrievers.mire_config import MireConfig, MireTuning
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.dag.retrieval import Retrieval

QWEN = "Qwen/Qwen2-VL-2B-Instruct"
CLIP_B32, CLIP_L14 = "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"
T5_ANCE, COLBERT = "OpenMatch/t5-ance", "colbert-ir/colbertv2.0"
UNITE_GPUS = 64
"""GPUs of the published run of UNITE, in both stages. Its gradients are those of the mean loss over that number, and are clipped at 1 then;
ours are not divided, so that the norm that they are clipped at, and Adam's epsilon, are that much larger, wherever the recipe runs."""
ENCODED = EmbedConfig(batch_size=32, use_gpu=True)
SERVED = ServeConfig(encoder_gpus=1)
LARGE = TrainConfig(
    global_batch_size=512,
    negatives=0,
    warmup_steps=0.03,
    num_train_epochs=1,
    bf16=True,
    chunk_tokens=4096,
    num_workers=8,
    use_gpu=True,
    cpus_per_worker=4,
    dataloader_num_workers=4,
)
"""Chunks in place of activation checkpointing, as the vision tower is frozen. 4096 tokens should leave room for a model of 7 billion
weights on a GPU of 80 GB; it has not been measured on one."""
DENSE = TrainConfig(
    global_batch_size=64,
    learning_rate=5e-6,
    warmup_steps=0,
    weight_decay=0.2,
    adam_betas=(0.9, 0.98),
    adam_epsilon=1e-6,
    max_grad_norm=0.0,
    negatives=0,
    num_train_epochs=20,
    loss=Objective(temperature=None, learned_temperature=True, temperature_floor=1e-3),
    use_gpu=True,
    cpus_per_worker=4,
    dataloader_num_workers=4,
)
"""The optimizer of MARVEL, UniVL-DR and UniIR, which clip no gradients, with in-batch negatives alone. The temperature is that of the
CLIP checkpoint, 0.01, and learns from there, without a bound in their code. From 0.01 to the floor here, a step of Adam moving its
logarithm by about the learning rate, are some 460,000 steps at 5e-6 and 230,000 at 1e-5: none of these trainings gets there."""
ANCE = MineConfig(negatives=2, last=100, margin=None, strategy="random", balanced=True, own="replace", encode=ENCODED)
"""One picture and one text of the top 100 that are no answers, in place of the negatives that the corpus judged. They are drawn once for
all epochs, which is chosen here."""
CHOSEN_HERE = {
    "unite": ("pairs.adapt_tasks", "backbone.encoder.max_frames", "backbone.encoder.newline_after_pictures"),
    "jfe": (
        *("adapt.tuning.towers", "adapt.tuning.lora.rank", "adapt.tuning.lora.alpha", "adapt.tuning.lora.dropout"),
        *("adapt.loss.temperature", "adapt.loss.symmetric", "adapt.learning_rate", "instruct.learning_rate", "adapt.max_grad_norm"),
        *("adapt.num_train_epochs", "adapt.global_batch_size", "adapt.negatives"),
        *("pairs.adapt_tasks", "pairs.without_instruction", "backbone.encoder.attention", "backbone.encoder.pooling"),
    ),
    "jfe_late": ("backbone.encoder.fusion",),
    "mimic": (
        *("instruct.learning_rate", "instruct.weight_decay", "instruct.adam_betas", "instruct.adam_epsilon", "instruct.max_grad_norm"),
        *("instruct.num_train_epochs", "instruct.seed", "instruct.loss.temperature", "instruct.loss.temperature_floor"),
        *("instruct.tuning.towers", "instruct.tuning.mix_in", "instruct.tuning.mix_ratio"),
        *("instruct.augment.document_captions", "instruct.augment.query_captions", "mine_refine.negatives", "mine_refine.strategy"),
    ),
    "mire": ("pairs.instruct_tasks",),
    "marvel": ("adapt.loss.temperature_floor", "adapt.num_train_epochs", "pairs.adapt_captions", "mine_refine.negatives"),
    "univldr": ("instruct.loss.temperature_floor", "instruct.bf16", "instruct.num_train_epochs", "mine_refine.last"),
    "uniir": ("instruct.loss.temperature_floor", "instruct.bf16", "pairs.without_instruction", "pairs.mixture"),
}
"""The fields that the docstrings of the recipes call chosen here, each with a row in the table of docs/retrievers.md."""
BARE = PairsConfig(without_instruction=1.0)


def _on(gpus: int) -> dict[str, Any]:
    """The fields that encode the corpus on as many GPUs as the training has, and that serve on a GPU."""
    return {"embed": replace(ENCODED, workers=gpus), "deploy": SERVED}


def unite() -> Retrieval:
    """UNITE as published, on Qwen2-VL-2B: LoRA on the language model, two stages, MAMCL in the second; a GPU for each of eight workers.

    mirepoix run unite sources.path=/data/corpus         global batch 512; the paper has 4096 on 64 GPUs
    mirepoix run unite sources.path=/data/corpus adapt.global_batch_size=4096 instruct.global_batch_size=4096
                                                         the paper's, in chunks of 4096 tokens in the memory of these GPUs

    From its code: both stages, LoRA, rates, 1280 x 28 x 28 pixels at most and 256 x 28 x 28 at least, of frames too, pictures that are
    resized twice, no hard negatives, in the second stage instructions on every query, and gradients clipped as on its 64 GPUs
    (`UNITE_GPUS`). Chosen here: the tasks that adapt are those of its first stage's sets, text with text, picture and clip; search, too,
    reads the 12 frames of a clip that training was published with at most; a line ends after pictures.
    """
    first, second = Tuning(lora=Lora(8, 16, 0.05)), Tuning(lora=Lora(8, 64, 0.05))
    fewest, most = 256 * 28 * 28, 1280 * 28 * 28
    reads = UniteConfig(min_pixels=fewest, max_pixels=most, min_frame_pixels=fewest, resized_twice=True, max_frames=12)
    training = replace(LARGE, max_grad_norm=1.0 * UNITE_GPUS, adam_epsilon=1e-8 * UNITE_GPUS, seed=42)
    return Retrieval(
        pairs=PairsConfig(adapt_tasks=("t->t", "t->i", "i->t", "t->v", "v->t"), without_instruction=0.0),
        backbone=BackboneConfig(name=QWEN, encoder=reads),
        adapt=replace(training, tuning=first, learning_rate=1e-4, loss=Objective(symmetric=True)),
        instruct=replace(training, tuning=second, learning_rate=2e-5, loss=Objective(modality_mask=True)),
        **_on(8),
    )


def jfe(fusion: Literal["joint", "late"] = "joint") -> Retrieval:
    """JFE on Qwen2-VL-2B: one tower, fusion from its first layer, adaptation then instruction tuning; a GPU for each of eight workers.

    mirepoix run jfe sources.path=/data/corpus

    From the paper: one multimodal tower, and the two stages. All numbers are chosen here, after its neighbours (LamRA, U-MARVEL): LoRA of
    rank 32 on the language model with vision frozen, temperature 0.03, adaptation in both directions on pairs without instructions, then
    one epoch with instructions on all queries; in-batch negatives alone; gradients clipped at a norm of 1. Causal attention and the last
    token are the encoder's own choices.
    """
    tuning = Tuning(lora=Lora(32, 64, 0.05))
    return Retrieval(
        backbone=BackboneConfig(name=QWEN, encoder=JfeConfig(fusion=fusion, max_pixels=1280 * 28 * 28)),
        pairs=PairsConfig(adapt_tasks=("t->t", "t->i", "i->t"), without_instruction=0.0),
        adapt=replace(LARGE, tuning=tuning, learning_rate=1e-4, loss=Objective(symmetric=True)),
        instruct=replace(LARGE, tuning=tuning, learning_rate=1e-4),
        **_on(8),
    )


def jfe_late() -> Retrieval:
    """The control of JFE: the same towers, data and trainings, with pictures and text combined only by a sum of their vectors.

    mirepoix run jfe_late sources.path=/data/corpus      as long as jfe, to whose scores by task its own are compared

    Chosen here, for the claim that joint fusion gains most where a query or a candidate mixes modalities.
    """
    return jfe(fusion="late")


def jfe_claim() -> Comparison:
    """JFE, its control and UniIR on one corpus, in one table by task: does the gain grow with the need for fusion?

    mirepoix run jfe_claim sources.path=/data/mbeir      as long as jfe, jfe_late and uniir together; eight GPUs
    """
    arms = {name: Arm(**run.method_fields) for name, run in (("jfe", jfe()), ("jfe_late", jfe_late()), ("uniir", uniir()))}
    return Comparison(pairs=jfe().pairs, deploy=SERVED, arms=arms)


def mimic() -> Retrieval:
    """MiMIC on T5-ANCE and CLIP ViT-B/32: fusion in the decoder, mix-in and caption dropout, then a round with mined negatives; one GPU.

    mirepoix run mimic sources.path=/data/corpus         two trainings of 20 epochs at 64 pairs

    From the paper's abstract and what others noted of it: towers, 128 tokens, batch 64, at most 20 epochs, mix-in, caption dropout, and a
    second round with negatives of the top 100. Its code is not public. Chosen here: the optimizer, without clipping, and the learned
    temperature of MARVEL, which has the same towers; one text and one picture of the top 100, drawn once; a fifth for both shares, and half
    of each vector that is mixed; that every tower learns; no early stop; the seed; that documents alone lose captions, as the text of a
    query with a picture is its question here, and not a caption (`augment.query_captions`, where it is).
    """
    robust, dropped = MimicTuning(mix_in=0.2), AugmentConfig(document_captions=0.2)
    training = replace(DENSE, tuning=robust, augment=dropped)
    return Retrieval(
        pairs=BARE,
        backbone=BackboneConfig(name=T5_ANCE, vision=CLIP_B32, encoder=MimicConfig()),
        adapt=None,
        instruct=training,
        mine_refine=ANCE,
        refine=replace(training, negatives=2),
        **_on(1),
    )


def mire() -> Retrieval:
    """MIRe as published, on ColBERTv2 and CLIP ViT-B/32: alignment without text in the score, then fine-tuning; four GPUs.

    mirepoix run mire sources.path=/data/vid2r                               pairs of question, picture and passage
    mirepoix run mire sources.path=/data/dialogues passages.kind=vid2r       dialogues, of which passages are made first

    From its code: alignment of the pooling alone for 5 epochs at 1e-4 after 300 steps, temperature 0.3, on queries of picture and text, of
    40 tokens, and documents of 400; fine-tuning as on OKVQA, 15 epochs at 5e-5 after 10 steps, 0.8, 32 and 180 tokens; in search 64 and
    384; 128 pairs a GPU; float32; no clipping. There a query's negatives are those of its GPU; here they are those of all four. Chosen
    here: fine-tuning on the same corpus, of all its tasks.
    """
    training = TrainConfig(
        global_batch_size=512,
        negatives=0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_workers=4,
        use_gpu=True,
        cpus_per_worker=4,
        dataloader_num_workers=4,
        seed=2024,
    )
    aligned = MireTuning(towers=("pooling",), text_rows=False, query_length=40, document_length=400, cached_pictures=100_000)
    tuned = MireTuning(query_length=32, document_length=180, cached_pictures=100_000)
    return Retrieval(
        passages=PassagesConfig(vid2r=Vid2rConfig(phrases="anywhere")),
        pairs=replace(BARE, adapt_tasks=("it->t",)),
        backbone=BackboneConfig(name=COLBERT, vision=CLIP_B32, encoder=MireConfig(query_length=64, document_length=384)),
        adapt=replace(training, tuning=aligned, num_train_epochs=5, learning_rate=1e-4, warmup_steps=300, loss=Objective(temperature=0.3)),
        instruct=replace(training, tuning=tuned, num_train_epochs=15, learning_rate=5e-5, warmup_steps=10, loss=Objective(temperature=0.8)),
        **_on(4),
    )


def marvel() -> Retrieval:
    """MARVEL as published, on T5-ANCE and CLIP ViT-B/32: pictures as tokens of T5 in three steps; one GPU.

    mirepoix run marvel sources.path=/data/corpus        three trainings of 20 epochs at 64 pairs

    From its code: which towers each step freezes, 5e-6 with weight decay 0.2, cosine without warm-up, the temperature of the CLIP
    checkpoint learning on, 64 tokens of caption in step 1, one picture and one text of the top 100 in step 3, contrasted with all of the
    batch. Chosen here: no early stop on a development set, so 20 epochs are all of them; step 1 reads the corpus's own captioned pictures,
    for want of the paper's from the web; negatives are drawn once for all epochs; the floor of the temperature.
    """
    first = MarvelTuning(towers=("vision", "projector"), text_length=64)
    goes_on = replace(DENSE, tuning=MarvelTuning(), seed=1234)
    return Retrieval(
        pairs=replace(BARE, adapt_captions=True),
        backbone=BackboneConfig(name=T5_ANCE, vision=CLIP_B32, encoder=MarvelConfig()),
        adapt=replace(DENSE, tuning=first, loss=replace(DENSE.loss, symmetric=True), seed=1234),
        instruct=goes_on,
        mine_refine=ANCE,
        refine=replace(goes_on, negatives=2),
        **_on(1),
    )


def univldr() -> Retrieval:
    """UniVL-DR as published, on CLIP ViT-B/32: sum of CLIP's vectors, in-batch negatives, then one mined picture and text each; one GPU.

    mirepoix run univldr sources.path=/data/corpus verbalise.kind=written verbalise.writer.model=M

    Two trainings of 20 epochs at 64 pairs. From its code: both stages, MARVEL's optimizer, CLIP's own temperature learning on, and in the
    second a softmax over the positive and its two negatives alone, on captions that a language model extended, which are what is searched
    afterwards too. Which model writes was not published, and is yours to name; without `verbalise` captions stay as they are. Chosen here:
    no early stop; float32 throughout; negatives are drawn once for all epochs; the floor of the temperature.
    """
    training = replace(DENSE, tuning=Tuning(towers=("text", "vision"), lora=None), seed=1234)
    return Retrieval(
        pairs=BARE,
        backbone=BackboneConfig(name=CLIP_B32, encoder=UniVLDRConfig()),
        adapt=None,
        instruct=training,
        mine_refine=ANCE,
        refine=replace(training, loss=replace(training.loss, in_batch=False), negatives=2),
        **_on(1),
    )


def uniir() -> Retrieval:
    """UniIR's CLIP with score fusion as published, on CLIP ViT-L/14: UniVL-DR's encoder, instructed, in-batch negatives alone; eight GPUs.

    mirepoix run uniir sources.path=/data/mbeir          20 epochs at 840 pairs

    From its code: 105 pairs on each of 8 GPUs, 1e-5 with weight decay 0.2 and cosine to 0, half precision, CLIP's own temperature learning
    on, an instruction before every query, no clipping, MARVEL's betas and epsilon. Chosen here: bfloat16 in place of float16; the floor of
    the temperature; and what an epoch reads. There a query draws one of its positives and of its instruction's wordings each time that it
    is read, and small sets are repeated in an epoch; here every positive is a pair, a query has one wording, and `pairs.mixture` sets the
    weight of a set.
    """
    return Retrieval(
        pairs=PairsConfig(without_instruction=0.0),
        backbone=BackboneConfig(name=CLIP_L14, encoder=UniVLDRConfig()),
        adapt=None,
        instruct=replace(
            DENSE,
            tuning=Tuning(towers=("text", "vision"), lora=None),
            global_batch_size=840,
            num_workers=8,
            learning_rate=1e-5,
            bf16=True,
            seed=2023,
        ),
        **_on(8),
    )
