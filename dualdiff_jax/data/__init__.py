"""Tokens and pictures: the tokenizer, record sources, transforms, and the seeded order in which they come."""
