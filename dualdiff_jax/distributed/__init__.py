"""Several processes as one run: how they find each other, and how the failure of one ends all of them."""
