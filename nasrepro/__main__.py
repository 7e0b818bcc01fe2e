"""`python -m nasrepro` is the `nasrepro` command."""

import sys

from nasrepro.cli import main

sys.exit(main())
