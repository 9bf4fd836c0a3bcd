"""Conversion of torch checkpoints to model folders and back: strict, and one layer in memory at a time."""
