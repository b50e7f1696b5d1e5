"""The DeepSpeed engine of a training: its settings, steps and checkpoints."""
