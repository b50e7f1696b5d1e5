"""An encoder and its index as a release: served, exported, described by a model card."""
