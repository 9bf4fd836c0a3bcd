"""One file a format; ``registry`` opens a source by the name of its format."""
