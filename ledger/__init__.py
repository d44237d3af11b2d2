"""Where calls are written down: append, read, materialise, verify.

The only room that speaks SQL. It appends what it is told and never judges; it knows no driver.
"""
