"""Puts this folder on the import path, so that every room of tests finds ``tiny_models`` and ``configs``."""
