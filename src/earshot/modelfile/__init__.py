"""The `.ear` container: codecs, writer and reader.

Does not know what a network is; `docs/formats/ear.md` is the specification.
"""
