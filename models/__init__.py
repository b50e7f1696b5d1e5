"""Encoders, their losses, and the items that they read; built on torch and transformers, without Ray, FAISS or MLflow."""
