"""What the package's claims rest on: the paper's experiments, published results, and where an update's time goes.

Not part of the installed package: `python -m experiments COMMAND`, from the root of the repository.
"""
