"""Training: recipes, augmentation, losses, the loop and its files."""
