"""The runtime: aligned arenas, worker threads, and compiled functions."""
