"""What later time steps are worth, and which groups should enter the mask loss."""
