"""The generated world: entities, their pictures and texts, and queries with known answers."""
