"""Torch checkpoints to our weights and back: strict, both ways, a layer at a time."""
