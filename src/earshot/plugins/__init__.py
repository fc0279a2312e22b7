"""Earshot inside other people's frameworks, as clients of `earshot serve`.

`client` speaks the server's WebSocket protocol; `pipecat` and `livekit` dress it as what those
frameworks expect, and import them on first use only. Knows nothing of how words are found.
"""
