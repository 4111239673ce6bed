"""``python -m hardfast``: the command line."""

import sys

from hardfast.cli import main

sys.exit(main())
