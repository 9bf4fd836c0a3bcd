"""Settings that a process makes before it computes."""
