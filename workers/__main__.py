"""``python -m workers``: the command ``countermand``, where its script is not on the PATH."""

from workers.cli import main

if __name__ == "__main__":
    main()
