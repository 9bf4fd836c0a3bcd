"""Scores of a model: hooks that run while it trains, benchmarks, and generated images with their FID."""
