"""`python -m bitsferry` is the `bitsferry` command."""

from bitsferry.cli.main import main

main()
