"""The benchmark engine behind ``hermes bench``: whole systems beside one another, honestly.

A *contestant* is anything that carries messages from a publisher to a subscriber: a transport of
Hermes, a control that only moves bytes, another broker.  It says how its processes are started and
how its users send and receive (:mod:`hermes.bench.contestant`); schedules, clocks, histograms,
warm-up and the order of rounds are the engine's, and the same for all.

Knows no transport: which there are, :mod:`hermes.plugins.discovery` says.
"""
