"""`python -m vatjax` is the `vatjax` command."""

from vatjax.cli import main

main()
