"""``python -m minigslora``."""

from minigslora.cli import main

if __name__ == "__main__":
    main()
