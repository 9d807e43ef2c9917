"""Training: recipes, the loop, and the three shipped demo networks."""
