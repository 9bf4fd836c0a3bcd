"""Looking at data before training on it: figures of each source, and a page to read."""
