"""`python -m vireid_fast` is the command `vireid`."""

from vireid_fast.cli import main

main()
