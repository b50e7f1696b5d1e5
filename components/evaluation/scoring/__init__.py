"""Measures of rankings, and what they are computed from: judgements, pools, rankers."""
