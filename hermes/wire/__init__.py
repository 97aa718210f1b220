"""The wire protocol, both ends, without I/O: ``docs/wire-protocol.md`` says what, these modules how.

``messages`` has the payloads, ``codec`` their bytes, ``errorcodes`` the table of what can be wrong;
``server`` and ``client`` are the two ends.  Nothing is imported here: a client needs no server.
"""
