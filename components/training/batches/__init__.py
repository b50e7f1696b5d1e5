"""The batches of a training: their order, augmentation, and collating ahead of their use."""
