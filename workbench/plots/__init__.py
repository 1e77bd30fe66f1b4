"""Pictures of results: a ladder as bars, its rungs under the roofs of a GPU.

style      the look that all pictures share, and how they are written
labels     where names go, so that none covers another
ladder     bars of times
roofline   rungs as dots, by what they move and how fast they are
picture    all of a run in one figure (``--plot`` of the scripts)

Only functions that draw import matplotlib: ``pip install matplotlib``.
"""
