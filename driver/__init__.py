"""How a call is carried out: by a Docker Engine, as a local process, or by a script for tests.

Drivers report facts and decide nothing. They know neither the ledger nor each other.
"""
