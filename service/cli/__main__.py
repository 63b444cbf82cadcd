"""`python -m service.cli` is `strata`."""

from service.cli.main import main

main()
