"""Whom a recogniser fails: cohorts of speakers, how sure that is, and a report to show it.

Takes the output of any recogniser. Needs the extra `[audit]`, never torch. Import from the modules.
"""
