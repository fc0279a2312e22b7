"""From torch to the device: codecs chosen, files written.

Knows networks and the `.ear` container; knows nothing of training data.
"""
