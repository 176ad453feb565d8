"""Floor 3: what is measured of a network."""
