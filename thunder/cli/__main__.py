"""`python -m thunder.cli` is the script `thunder`."""

from thunder.cli.app import main

if __name__ == "__main__":
    main()
