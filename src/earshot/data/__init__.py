"""Audio, manifests, text, word pieces, features and scores.

What goes into a recogniser, and how well its output agrees with what was said. Knows files and
formats; does not know models.
"""
