"""Published checkpoints and tiny random twins of them, the pixels that vision towers read, and which weights are trained."""
