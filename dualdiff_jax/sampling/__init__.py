"""From noise to latents and from masks to tokens, as jitted loops. No model is imported here."""
