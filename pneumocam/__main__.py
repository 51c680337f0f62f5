"""`python -m pneumocam` is the same as `pneumocam`."""

from pneumocam.cli import main

raise SystemExit(main())
