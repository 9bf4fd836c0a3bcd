"""What is minimised: time sampling, flow matching, masked diffusion, and their sum. No model is imported here."""
