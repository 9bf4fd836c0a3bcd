"""The tabs of the page, one a file: each has fields, a button and an outcome."""
