"""`python -m scalelab`: the console script by the name of the package."""

from scalelab.cli.main import entry

if __name__ == "__main__":
    entry()
