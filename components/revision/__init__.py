"""A release with more items or with fewer, made of one that is published; no training, and only new items are encoded."""
