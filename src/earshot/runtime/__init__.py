"""Sessions that step one graph of a model with an explicit state.

Knows nothing of text or servers.
"""
