"""`python -m hpm`, e.g. under torchrun."""

from hpm.cli import main

main()
