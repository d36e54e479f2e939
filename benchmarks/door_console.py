"""The console of `benchmarks.door`, on a port that the command line names; all else is in the environment."""

import os
import sys

from services.console.__main__ import main

if __name__ == "__main__":
    main({**os.environ, "OMNIALIGN_SERVER_PORT": sys.argv[2]})
