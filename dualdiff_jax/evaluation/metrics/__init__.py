"""Scores of benchmarks by their official rules: one family of rules a file, each compared with the code it follows."""
