"""Published checkpoints, tiny random twins of them, what vision towers read, and which weights are trained."""
