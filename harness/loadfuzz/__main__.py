"""``python -m loadfuzz``: the command line."""

from loadfuzz.cli.main import main

if __name__ == "__main__":
    main()
