"""`python -m understudy`, the same as the `understudy` command."""

from understudy.cli import main

if __name__ == "__main__":
    main()
