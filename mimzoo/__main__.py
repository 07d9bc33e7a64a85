"""`python -m mimzoo`."""

from mimzoo.cli import main

main()
