"""What a published convention gives for a network: counts in, the operations that it charges and its energy out."""
