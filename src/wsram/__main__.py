"""`python -m wsram` is the command line."""

from wsram.cli import main

main()
