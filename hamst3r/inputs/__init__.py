"""What a user hands over - photos, folders, videos, recordings, bags - as sets of frames.

:func:`open_inputs` finds out what is meant. There are two kinds: *photos* are one place at one
time, however many images, and make one frame set; a *recording* has one or more fixed sets of
cameras over time, and makes one frame set per time step.
"""

from hamst3r.inputs.opening import open_inputs
from hamst3r.inputs.source import InputError, InputOptions, Original, Source

__all__ = ["InputError", "InputOptions", "Original", "Source", "open_inputs"]
