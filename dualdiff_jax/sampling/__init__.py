"""From noise to latents and from masks to tokens, as loops inside ``jit``. No model is imported here."""
