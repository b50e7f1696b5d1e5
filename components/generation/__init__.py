"""Text generation by language models: prompts, writers, and a cache of replies."""
