"""Benchmarks as tasks, one a file: how a question is asked, where the questions are, and how answers score."""
