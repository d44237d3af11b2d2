"""`python -m calls.cli` is `calls`."""

from calls.cli import main

if __name__ == "__main__":
    main()
