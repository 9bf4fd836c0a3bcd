"""A look at data before training on it: figures of each source, and an HTML page of examples."""
