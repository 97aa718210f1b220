"""Benchmarks: ``micro`` asks what one operation costs, ``system`` what a whole broker does."""
