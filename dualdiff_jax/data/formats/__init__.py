"""The file formats that sources may have, one module a format; ``registry`` opens a source by its format's name."""
