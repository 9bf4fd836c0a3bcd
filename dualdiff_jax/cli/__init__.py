"""The commands: flags and files in, files and lines out."""
