"""`python -m hvd_dqn` is `hvd-dqn`."""

from hvd_dqn.commands.cli import main

if __name__ == "__main__":
    main()
