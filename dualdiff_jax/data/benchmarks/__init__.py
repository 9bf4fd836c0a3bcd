"""The questions of benchmarks in their publishers' files, as an evaluation asks them; one layout a file."""
