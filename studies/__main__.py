"""`python -m studies`: what workers are started with."""

from studies.cli import main

main()
