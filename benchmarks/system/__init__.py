"""The broker over TCP, beside what the machine and its peers do in the same run.

One file per question.  Each names its contestants, which are run in turn, round by round, so that a
machine that slows down slows all of them; reported are medians over the rounds, their spread, and
ratios of medians.

    python -m benchmarks.system [--quick] [--only QUESTION]... [--rounds N] [--output FILE]
"""
