"""The generated world: synthetic entities, their pictures and texts, and queries with known answers."""
