"""Jobs of several steps: demo, ablation, trio, time-step sensitivity, early exit."""
