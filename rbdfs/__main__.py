"""`python -m rbdfs`."""

import sys

from rbdfs.cli.main import main

sys.exit(main())
