"""A loaded model and its jitted programs: images from text, text from images."""
