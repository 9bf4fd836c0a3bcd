"""The demo: real handwriting as training data, and a report of what a small model learns from it."""
