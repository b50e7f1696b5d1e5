"""The contrastive loss over the global batch, its settings, its temperature, and the collectives it gathers with."""
