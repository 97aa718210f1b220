"""Plugins: found by entry point, selected, loaded when first named, and isolated."""
