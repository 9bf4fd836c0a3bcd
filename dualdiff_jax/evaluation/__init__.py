"""Training hooks that evaluate a model: previews to look at, and losses of held-out records."""
