"""The native core: a thin Python handle per concept; alone imports the compiled module."""
