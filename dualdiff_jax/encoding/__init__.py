"""The frozen networks over whole data sets: computed once, stored, read by training."""
