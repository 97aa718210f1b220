"""Foundations that every part of Hermes may use: checks of arguments, ends of programs, forks, text as it is shown.

Imports nothing of Hermes but :mod:`hermes.errors`.
"""
