"""`python -m scalelab.cli`: the console script by its module."""

from scalelab.cli.main import entry

if __name__ == "__main__":
    entry()
