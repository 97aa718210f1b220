"""Tools for transports: addresses, listeners, sockets, faults on purpose, gateways.

A transport may use them or not; the kernel imports none of them.
"""
