"""Public boards: which data sets they have, how each is measured, and what is averaged."""
