"""Networks and losses in torch: what is trained here runs in the engine as a graph.

Knows modules, tensors and how each module describes itself as nodes of a `.ear` graph.
Knows nothing of files, data sets or optimisers.
"""
