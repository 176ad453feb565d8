"""The web page: the explorer of the plane, and the viewer of runs."""
