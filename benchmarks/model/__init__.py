"""Benchmarks of the model."""
