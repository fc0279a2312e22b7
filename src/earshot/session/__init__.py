"""The recogniser: audio in, transcripts out. Knows nothing of servers or commands."""
