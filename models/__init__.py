"""Encoders, their losses and what they read: torch and transformers, and nothing of Ray, FAISS or MLflow."""
