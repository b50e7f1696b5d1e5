"""Published models, opened as their folders describe them: two-tower models of transformers, and any dense sentence-transformers model."""
