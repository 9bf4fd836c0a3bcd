"""Training data: files of any format become records, records become examples, examples become seeded batches."""
