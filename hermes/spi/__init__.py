"""Contracts: what plugins implement and what they are given.

Imports nothing of Hermes but :mod:`hermes.errors` and the types of :mod:`hermes.native`.
"""
