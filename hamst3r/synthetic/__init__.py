"""Labelled multi-view, multi-person data made from nothing."""
