"""``python -m sst_merge``: the command ``sst-merge``, where the console script is not on the path."""

from .cli.main import main

if __name__ == "__main__":
    main()
