"""What a call may do: its states, events, spec, transition table and verdicts.

This room is pure. It does no I/O and reads no clock: values in, values out.
"""
