"""The contrastive loss over the global batch, at once or by tiles, its settings and temperature, and the collectives it gathers with."""
