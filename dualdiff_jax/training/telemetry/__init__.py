"""What a run reports about itself: records, where they go, profiler traces."""
