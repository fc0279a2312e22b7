"""Words that the whole package uses: errors, utterances, features, transcripts, configuration.

Knows neither files nor networks; imports nothing else of the package.
"""
