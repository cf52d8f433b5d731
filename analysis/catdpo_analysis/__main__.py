import sys

from catdpo_analysis.cli import main

sys.exit(main())
