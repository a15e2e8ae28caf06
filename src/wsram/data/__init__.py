"""Examples: digits read from disk, and the scenes they are placed in."""
