"""The outputs of the frozen networks for whole data sets: computed once, stored, and read by training."""
