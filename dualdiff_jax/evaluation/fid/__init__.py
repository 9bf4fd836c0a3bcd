"""FID: Inception's features of two sets of images, their means and covariances, and the distance between these."""
