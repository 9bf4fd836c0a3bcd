"""What a process sets before it computes."""
