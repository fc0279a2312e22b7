"""Search settings, and the way from a search result to a transcript.

Knows nothing of audio files.
"""
