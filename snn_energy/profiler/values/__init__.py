"""Values of tensors: bounds by origin, exact sums, scans."""
