"""Datasets: sources, decoding, few-shot selection and batches."""
