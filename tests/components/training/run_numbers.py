"""The numbers of a run that the tests of DeepSpeed's settings and engine share."""

from mirepoix.components.training.engine.deepspeed_settings import Numbers

NUMBERS = Numbers(
    stage=2,
    world=4,
    batch=32,
    accumulation=3,
    max_grad_norm=1.0,
    learning_rate=1e-4,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    epsilon=1e-6,
    bf16=True,
    warmup=7,
    total=90,
    scheduler="linear",
)
