"""What every run of a network needs: its state, its mode, several processes, its answers."""
