"""``python -m snn_energy`` is ``snn-energy``."""

from snn_energy.cli import main

main()
