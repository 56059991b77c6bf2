"""The graph of one traced step: nodes, tracing, printing, and the NumPy interpreter."""
