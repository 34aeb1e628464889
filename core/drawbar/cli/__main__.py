"""`python -m drawbar.cli`."""

from drawbar.cli import main

main()
