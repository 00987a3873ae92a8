"""The frontier and the cache over Redis.

``lua/`` holds the frontier's one script in pieces, read in the order of their names; the
map of its keys opens the first.
"""
