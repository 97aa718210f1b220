"""Hermes: an ultra-low-latency message broker for Python."""
