"""`python -m vsjax.predict` with the tests' small network known: what the tests start and kill."""

import local_network  # noqa: F401  registers the network

from vsjax.predict import main
from vsjax.program import run_program

if __name__ == "__main__":
    run_program("predict", main)
