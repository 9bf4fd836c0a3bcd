"""Benchmarks of generated images: prompt lists, folders of images in the publishers' layouts, and scores of these."""
