"""`python -m masktas` is `masktas`."""

from masktas.cli import main

if __name__ == "__main__":
    main()
