"""`python -m lipwire`: the same as the `lipwire` command."""

from lipwire.cli.main import main

if __name__ == "__main__":
    main()
