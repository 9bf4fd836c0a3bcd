"""Several processes as one run: how they find each other, and how one that cannot go on ends them all."""
