"""Ray clusters: a private one, one that is given, jobs, and what a machine has."""
