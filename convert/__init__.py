"""Torch checkpoints to our weights and back."""
