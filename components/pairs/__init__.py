"""Training pairs, evaluation queries, instructions, and mined hard negatives."""
