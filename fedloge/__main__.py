"""``python -m fedloge``: the command line, where its script is not on the path."""

from fedloge.commands.main import main

# Worker processes import the main module again, under another name.
if __name__ == "__main__":
    main()
