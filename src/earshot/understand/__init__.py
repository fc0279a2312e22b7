"""What a sentence wants: command templates, their recognition network, intents and slots.

Knows words, never audio; `session` joins it with recognition.
"""
