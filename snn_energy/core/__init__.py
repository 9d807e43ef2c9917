"""What every stage uses: errors, files, YAML, words, kinds of values. No torch, no pandas."""
