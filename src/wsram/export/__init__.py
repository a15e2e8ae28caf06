"""Networks outside this package: as a file for other programs, and as a page for a browser."""
