"""``python -m snn_energy`` is ``snn-energy``."""

from snn_energy.cli.main import main

if __name__ == "__main__":  # a process that spawns another lets it import this file again
    main()
