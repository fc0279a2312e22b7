"""`python -m earshot.cli`: the command, where no script was installed."""

from earshot.cli.app import main

if __name__ == "__main__":
    main()
