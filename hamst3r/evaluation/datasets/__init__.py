"""Readers of public data sets in the layouts in which they are published, and what papers report.

Nothing is downloaded: the data are under their owners' terms, and a folder must be there.
"""
