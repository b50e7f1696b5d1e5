"""The runs that have a name."""
