"""The training run: optimizer, state, step, checkpoints, telemetry and the loop that joins them."""
