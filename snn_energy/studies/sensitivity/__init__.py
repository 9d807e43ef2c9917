"""How much later time steps contribute, and which groups should enter the mask loss."""
