"""Run the program from a checkout: ``python cli.py COMMAND``."""

from listener.cli.main import main

if __name__ == "__main__":
    main()
