"""The workers of a training under Ray Train."""
